"""The files of a drop as tables of DuckDB, and the checks that need all rows of a file at once.

Reading and the words of errors are those of data/load; what is done there in Postgres is done here
beside the lake, so that no raw row passes through a database.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from data.contract import Column, Table, listers
from data.lake.files import INSTANT, arrow_type, columns_of
from data.load.drop import Drop
from data.load.read import SuspectError, fast_rows, slow_rows
from data.load.stage import (
    Staged,
    as_csv,
    layout_of,
    looked_at,
    most,
    note_repeats,
    note_unknown,
)

AS_TEXT = ("boolean", "uuid", "timestamp with time zone")  # written in several ways


def name_of(table: Table) -> str:
    """The table of DuckDB with a file's rows: `line` and the columns."""
    return f"incoming_{table.name}"


def listed(names: Sequence[str], alias: str = "") -> str:
    """Columns for a select list; names are small letters, digits and _."""
    return ", ".join(f'{alias}."{name}"' if alias else f'"{name}"' for name in names)


def same(names: Sequence[str], left: str, right: str) -> str:
    """Whether two rows have one key."""
    return " and ".join(f'{left}."{name}" = {right}."{name}"' for name in names)


def differ(names: Sequence[str], left: str, right: str) -> str:
    """Whether any column differs, null-safe."""
    return "(" + " or ".join(f'{left}."{n}" is distinct from {right}."{n}"' for n in names) + ")"


def stage(duck: duckdb.DuckDBPyConnection, table: Table, drop: Drop, *, quarantine: bool) -> Staged:
    """Read a file, noting in its report what is wrong with single rows; see data/load/stage.py.

    Raises:
        DropError: the contract has a type that the lake does not keep.
    """
    path = drop.files[table.name]
    schema = pa.schema([("line", pa.int64()), *columns_of(table)])
    staged, look = looked_at(table, drop, quarantine=quarantine)
    duck.register("shape", schema.empty_table())
    duck.execute(f"create or replace temp table {name_of(table)} as select * from shape")
    layout = layout_of(staged, drop)
    if layout is None:
        return staged
    try:
        if not (look.plain and layout.is_plain):
            raise SuspectError("another form")
        staged.rows = _fill(duck, schema, table, _plain(path, layout.columns, drop.day))
    except SuspectError:
        duck.execute(f"delete from {name_of(table)}")
        rows = as_csv(slow_rows(path, layout, drop.day, staged.report))
        staged.rows = _fill(duck, schema, table, _typed(rows, layout.columns))
    return staged


def _plain(path: Path, header: list[Column], day: date) -> Iterator[pa.Table]:
    return _typed(fast_rows(path, header, day), header)


def _fill(
    duck: duckdb.DuckDBPyConnection, schema: pa.Schema, table: Table, batches: Iterator[pa.Table]
) -> int:
    rows = 0
    for batch in batches:
        missing = [field for field in schema if field.name not in batch.column_names]
        for field in missing:
            batch = batch.append_column(field, pa.nulls(batch.num_rows, field.type))
        duck.register("batch", batch.select(schema.names).cast(schema))
        duck.execute(f"insert into {name_of(table)} select * from batch")
        duck.unregister("batch")
        rows += batch.num_rows
    return rows


def _typed(blocks: Iterator[bytes], header: list[Column]) -> Iterator[pa.Table]:
    """CSV in the contract's form, which has been checked, as Arrow tables."""
    names = ["line", *(column.name for column in header)]
    read_as = {"line": pa.int64()}
    for column in header:
        text = column.type.sql in AS_TEXT
        read_as[column.name] = pa.string() if text else arrow_type(column.type.sql)
    for block in blocks:
        if not block:
            continue
        found = pacsv.read_csv(
            pa.BufferReader(block),
            pacsv.ReadOptions(column_names=names, block_size=max(len(block), 1)),
            pacsv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            pacsv.ConvertOptions(
                column_types=read_as,
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
                null_values=[""],
            ),
        )
        for column in header:
            if column.type.sql in AS_TEXT:
                place = found.column_names.index(column.name)
                values = _from_text(column.type.sql, found.column(place))
                found = found.set_column(place, column.name, values)
        yield found


def _from_text(kind: str, cells: pa.ChunkedArray) -> pa.ChunkedArray:
    if kind == "boolean":
        return pc.equal(pc.utf8_lower(cells), "true")
    if kind == "uuid":
        return pc.utf8_lower(cells)
    # As data/load/read.py does: no offset means UTC.
    has_offset = pc.match_substring_regex(cells, r"(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)$")
    zoned = pc.if_else(has_offset, cells, pc.binary_join_element_wise(cells, "Z", ""))
    return zoned.cast(INSTANT)


def check_rows(
    duck: duckdb.DuckDBPyConnection, drop: Drop, files: list[Staged], tables: Sequence[Table]
) -> None:
    """As data/load/stage.py: rows stated twice, and users whom nothing lists; drops repeats."""
    lists = listers(tables)
    first = [table.name for table in lists.values()]
    here = {staged.table.name: staged for staged in files}
    for staged in sorted(files, key=lambda one: one.table.name not in first):
        _take_out_refused(duck, staged)
        form = drop.forms.get(staged.table.name)
        _check_repeats(duck, staged, form.repeats if form else "error")
        for column in staged.table.columns:
            lister = lists.get(column.entity)
            if lister is None or (lister is staged.table and column.name in lister.key):
                continue
            there = here.get(lister.name)
            if there is None or not there.report.keys_lost or staged.report.refused is not None:
                _check_known(duck, drop, staged, column, lister, there)
                _take_out_refused(duck, staged)


def _take_out_refused(duck: duckdb.DuckDBPyConnection, staged: Staged) -> None:
    if staged.report.refused:
        gone = duck.execute(
            f"delete from {name_of(staged.table)} where line in (select unnest(?)) returning line",
            [list(staged.report.refused)],
        ).fetchall()
        staged.rows -= len(gone)


def _check_repeats(duck: duckdb.DuckDBPyConnection, staged: Staged, repeats: str) -> None:
    incoming, key = name_of(staged.table), list(staged.table.key)
    named = " and ".join(f'"{name}" is not null' for name in key)
    which = "max" if repeats == "last" else "min"
    duck.execute(
        f"create or replace temp table twice as select {listed(key)}, {which}(line) as line"
        f" from {incoming} where {named} group by {listed(key)} having count(*) > 1"
    )
    if repeats == "error":
        columns = [column.name for column in staged.table.columns]
        different = differ(columns, "again", "once") if staged.table.is_event else "true"
        shown = "" if most(staged) == "all" else f"limit {most(staged)}"
        texts = ", ".join(f'again."{name}"' for name in key)
        found = duck.execute(
            f"select again.line, concat_ws(', ', {texts}), twice.line, count(*) over ()"
            f" from twice join {incoming} as once on once.line = twice.line"
            f" join {incoming} as again on {same(key, 'again', 'twice')}"
            f" and again.line > twice.line where {different} order by again.line {shown}"
        ).fetchall()
        note_repeats(staged, found)
        _take_out_refused(duck, staged)
    duck.execute(
        f"delete from {incoming} as i using twice"
        f" where {same(key, 'i', 'twice')} and i.line <> twice.line"
    )


def _check_known(
    duck: duckdb.DuckDBPyConnection,
    drop: Drop,
    staged: Staged,
    column: Column,
    lister: Table,
    there: Staged | None,
) -> None:
    """Note the rows of which a column names one of an entity that nothing lists."""
    (key,) = lister.key
    known = f'select "{key}" as id from raw_{lister.name} where superseded_by is null'
    if there is not None:
        known += f' and as_of <> ? union all select "{key}" from {name_of(lister)}'
    shown = "" if most(staged) == "all" else f"limit {most(staged)}"
    found = duck.execute(
        f'with named as (select distinct "{column.name}" as id from {name_of(staged.table)}),'
        f" known as ({known}),"
        " unknown as (select id from named where id is not null and id not in"
        " (select id from known where id is not null))"
        f" select i.line, u.id::varchar, count(*) over () from {name_of(staged.table)} as i"
        f' join unknown as u on i."{column.name}" = u.id order by i.line {shown}',
        [drop.day] if there is not None else [],
    ).fetchall()
    note_unknown(staged, column, lister, found)
