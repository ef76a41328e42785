"""Load a drop into the lake: the rules of data/load/load.py, in files that are only ever added.

A load writes what it brought and what went out of effect, and its row in `loads` last: that row is
the switch. Whoever is killed before has loaded nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from data.contract import Table, declared, listers
from data.lake.files import LOADS, Lake, alone, key_of, mark_schema, rows_schema, write
from data.lake.incoming import check_rows, differ, listed, name_of, same, stage
from data.load.check import DropError, Report
from data.load.drop import Drop, find_drop
from data.load.load import LoadResult, TableResult, is_row_by_row, refused_rows
from data.load.notices import NAMED, begin_that_day, of_files, orphans
from data.load.read import scan
from data.load.stage import Staged
from data.paths import lake

MEMORY = "1GB"  # what is more lies on disk
BATCH = 100_000
MARKS = ("superseded", "replaced")


def load(
    folder: Path | str,
    *,
    quarantine: Path | None = None,
    tables: Sequence[Table] | None = None,
) -> LoadResult:
    """Load the drop in `folder`, as data/load/load.py's `load` does.

    Raises:
        DropError: something is wrong with the drop; nothing was changed.
    """
    tables = declared() if tables is None else tables
    drop = find_drop(folder, tables)
    with alone(lake() / "raw"):
        place = Lake.here()
        place.remove_leavings()
        duck = _duck(place, tables)
        files = [
            stage(duck, table, drop, quarantine=quarantine is not None)
            for table in tables
            if table.name in drop.files
        ]
        check_rows(duck, drop, files, tables)
        fatal = [one.report for one in files if one.report.count and not is_row_by_row(one)]
        if fatal:
            raise DropError(drop.folder, fatal)
        warnings = of_files(files)
        for table in listers(tables).values():
            if table.name in drop.files:
                warnings += _begin_that_day(duck, drop, table)
        merge = _Merge(duck, place, drop, place.last + 1, datetime.now(timezone.utc))
        results = {staged.table.name: merge.table(staged) for staged in files}
        merge.commit()
        for entity, table in listers(tables).items():
            if table.name in drop.files:
                warnings += _orphans(entity, table, tables)
    load_id = merge.load_id if merge.noted else None
    result = LoadResult(drop, load_id, results, warnings)
    if quarantine is not None:
        result.warnings.extend(refused_rows(quarantine, drop, files))
    return result


def last_load(folder: Path) -> int | None:
    """As data/load/loaded.py: the newest load of the drop, if it was of these very files."""
    try:
        there = find_drop(folder).files
    except DropError:
        return None
    known: dict[str, tuple[str, int]] = {}
    for row in loads():
        if row["as_of"].date().isoformat() == folder.name:
            known[row["table_name"]] = (row["sha256"], row["load_id"])
    if not there or there.keys() != known.keys():
        return None
    if any(scan(path, Report(path.name)).sha256 != known[name][0] for name, path in there.items()):
        return None
    return max(load_id for _, load_id in known.values())


def loads() -> list[dict]:
    """The rows of `loads`, oldest first."""
    files = Lake.here().files("loads")
    found = [row for path in files for row in pq.read_table(path, schema=LOADS).to_pylist()]
    return sorted(found, key=lambda row: row["load_id"])


def _duck(place: Lake, tables: Sequence[Table]) -> duckdb.DuckDBPyConnection:
    """A connection with `raw_<table>`: the rows of all loads, and since when they do not count."""
    scratch = place.folder / ".tmp"
    duck = duckdb.connect(
        config={"memory_limit": MEMORY, "temp_directory": str(scratch), "threads": 2}
    )
    duck.execute("set preserve_insertion_order = false")
    _view(duck, place, "loads", "", LOADS)
    for table in tables:
        key = [*(name for name, _ in key_of(table)), "as_of", "load_id"]
        _view(duck, place, f"{table.name}_rows", "date", rows_schema(table))
        for mark in MARKS:
            _view(duck, place, f"{table.name}_{mark}", "", mark_schema(table, mark))
        duck.execute(
            f"create temp view raw_{table.name} as select r.*, s.superseded_by, p.replaced_by"
            f" from {table.name}_rows as r"
            f" left join {table.name}_superseded as s on {same(key, 'r', 's')}"
            f" left join {table.name}_replaced as p on {same(key, 'r', 'p')}"
        )
    return duck


def _view(
    duck: duckdb.DuckDBPyConnection, place: Lake, name: str, partition: str, schema: pa.Schema
) -> None:
    """A view of a part's files, with as_of as a date. A file may lack columns declared since."""
    shape = f"shape_{name}"
    duck.register(shape, schema.empty_table())
    columns = [field.name for field in schema if field.name != "as_of"]
    dated = partition or "as_of" in schema.names
    source = f"select {listed(columns)}" + (", null::date as as_of" if dated else "")
    source += f" from {shape}"
    if files := place.files(name):
        paths = ", ".join("'" + path.replace("'", "''") + "'" for path in files)
        options = "union_by_name = true"
        if partition:
            options += ", hive_partitioning = true, hive_types = {'as_of': date}"
        there = duck.execute(f"select * from read_parquet([{paths}], {options}) limit 0")
        has = [column[0] for column in there.description or []]
        taken = [column for column in columns if column in has]
        # An instant at midnight UTC, counted in microseconds: no time zone is asked for.
        day = "as_of" if partition else "make_timestamp(epoch_us(as_of))::date as as_of"
        source += f" union all by name select {listed(taken)}" + (f", {day}" if dated else "")
        source += f" from read_parquet([{paths}], {options})"
    duck.execute(f"create temp view {name} as {source}")


def _begin_that_day(duck: duckdb.DuckDBPyConnection, drop: Drop, table: Table) -> list[str]:
    if not table.since:
        return []
    found = duck.execute(
        f'select "{table.key[0]}"::varchar, count(*) over () from {name_of(table)}'
        f' where "{table.since}" >= ? order by 1 limit {NAMED}',
        [drop.day],
    ).fetchall()
    return begin_that_day(drop, table, found)


def _orphans(entity: str, lister: Table, tables: Sequence[Table]) -> list[str]:
    """Events of users (say) whom a correction took out of every drop; after the load."""
    duck = _duck(Lake.here(), tables)
    key = lister.key[0]
    duck.execute(
        f'create temp table gone as select "{key}" as id from raw_{lister.name}'
        f' group by "{key}" having count(*) = count(superseded_by)'
    )
    events = [
        f'select g.id from raw_{table.name} as r join gone as g on r."{column.name}" = g.id'
        " where r.superseded_by is null"
        for table in tables
        for column in table.columns
        if table.is_event and column.entity == entity
    ]
    if not events or not duck.execute("select count(*) from gone").fetchall()[0][0]:
        return []
    found = duck.execute(
        f"select id::varchar, count(*) over (), sum(count(*)) over () from"
        f" ({' union all '.join(events)}) group by id order by id limit {NAMED}"
    ).fetchall()
    return orphans(entity, lister, found)


@dataclass
class _Merge:
    """What load `load_id` writes. The steps are those of data/load/load.py."""

    duck: duckdb.DuckDBPyConnection
    place: Lake
    drop: Drop
    load_id: int
    loaded_at: datetime
    noted: list[dict] = field(default_factory=list)

    def table(self, staged: Staged) -> TableResult:
        """Make the drop's statements those of the file; every other drop's stay as they are."""
        table = staged.table
        for mark in MARKS:
            self.duck.register("shape", mark_schema(table, mark).empty_table())
            self.duck.execute(
                f"create or replace temp table new_{mark} as"
                f" select * replace (null::date as as_of) from shape"
            )
        first = self._seen(table, "=") == 0
        replaced = 0 if first else self._find_outgoing(table)
        if table.is_event and self._seen(table, "<"):
            replaced += self._supersede_older(table)
        if table.is_event and self._seen(table, ">"):
            self._give_way_to_newer(table)
        again, retracted = False, 0
        if not first:
            retracted = self._count("outgoing where line is null")
            again = table.is_event and retracted > 0
        added = self._write_rows(table, again=again)
        for mark in MARKS:
            schema = mark_schema(table, mark)
            self._write(f"{table.name}_{mark}", schema, f"select * from new_{mark}")
        if first or added or retracted:
            self.noted.append(
                {
                    "load_id": self.load_id,
                    "table_name": table.name,
                    "as_of": self.drop.as_of,
                    "loaded_at": self.loaded_at,
                    "rows_read": staged.rows,
                    "rows_added": added,
                    "rows_retracted": retracted,
                    "sha256": staged.sha256,
                    "recorded": staged.present,
                }
            )
        return TableResult(staged.rows, added, replaced, staged.rows - added, retracted)

    def commit(self) -> None:
        """The switch; without a change there is no load."""
        if not self.noted:
            self.place.remove_leavings()
            return
        path = self.place.folder / "loads" / f"load-{self.load_id}.parquet"
        write(path, LOADS, pa.Table.from_pylist(self.noted, schema=LOADS).to_batches())

    def _seen(self, table: Table, comparison: str) -> int:
        return self._count(
            f"loads where table_name = ? and as_of {comparison} ?", [table.name, self.drop.day]
        )

    def _count(self, what: str, values: Sequence[object] = ()) -> int:
        row = self.duck.execute(f"select count(*) from {what}", list(values)).fetchone()
        return row[0] if row else 0

    def _mark(self, mark: str, table: Table, query: str, *values: object) -> int:
        """Add to new_<mark> the (key, as_of, load_id) of a query; how many."""
        before = self._count(f"new_{mark}")
        self.duck.execute(
            f"insert into new_{mark} ({listed(table.key)}, as_of, load_id, {mark}_by)"
            f" select *, {self.load_id} from ({query})",
            list(values),
        )
        return self._count(f"new_{mark}") - before

    def _find_outgoing(self, table: Table) -> int:
        """Statements of this drop that the file corrects (how many?) or no longer holds."""
        columns = [column.name for column in table.columns]
        stated = f"raw_{table.name} as r"
        current = "r.as_of = ? and r.replaced_by is null"
        self.duck.execute(
            f"create or replace temp table outgoing as select {listed(table.key, 'r')}, r.as_of,"
            f" r.load_id, r.superseded_by, i.line from {stated}"
            f" left join {name_of(table)} as i on {same(table.key, 'i', 'r')}"
            f" where {current} and (i.line is null or {differ(columns, 'i', 'r')})",
            [self.drop.day],
        )
        self.duck.execute(
            f"delete from {name_of(table)} where line in (select i.line from {stated}"
            f" join {name_of(table)} as i on {same(table.key, 'i', 'r')}"
            f" where {current} and not {differ(columns, 'i', 'r')})",
            [self.drop.day],
        )
        key = f"{listed(table.key)}, as_of, load_id"
        self._mark("replaced", table, f"select {key} from outgoing")
        self._mark("superseded", table, f"select {key} from outgoing where superseded_by is null")
        return self._count("outgoing where line is not null")

    def _supersede_older(self, table: Table) -> int:
        """Statements of older drops that were in effect give way to this drop's."""
        return self._mark(
            "superseded",
            table,
            f"select {listed(table.key, 'r')}, r.as_of, r.load_id from raw_{table.name} as r"
            f" join {name_of(table)} as i on {same(table.key, 'i', 'r')}"
            " where r.as_of < ? and r.superseded_by is null",
            self.drop.day,
        )

    def _give_way_to_newer(self, table: Table) -> None:
        """Never in effect where a newer drop has spoken."""
        self._mark(
            "superseded",
            table,
            f"select {listed(table.key, 'i')}, ?::date, {self.load_id} from {name_of(table)} as i"
            f" where exists (select 1 from raw_{table.name} as n"
            f" where {same(table.key, 'n', 'i')} and n.as_of > ? and n.replaced_by is null)",
            self.drop.day,
            self.drop.day,
        )

    def _write_rows(self, table: Table, *, again: bool) -> int:
        """The rows that are new or corrected (how many?); and what older drops said about events
        that this drop takes away, which is in effect again."""
        columns = [column.name for column in table.columns]
        schema = rows_schema(table)
        rows = f"select {listed(columns)}, {self.load_id}, ?::timestamptz from "
        added = self._write(
            f"{table.name}_rows/as_of={self.drop.day}", schema, rows + name_of(table)
        )
        if again:
            self.duck.execute(
                "create or replace temp table again as"
                f" select distinct on ({listed(table.key, 'r')})"
                f" {listed(columns, 'r')}, r.as_of, r.load_id from raw_{table.name} as r"
                f" join outgoing as o on {same(table.key, 'r', 'o')} and o.superseded_by is null"
                " and o.line is null where r.as_of < ? and r.replaced_by is null"
                f" order by {listed(table.key, 'r')}, r.as_of desc",
                [self.drop.day],
            )
            key = f"{listed(table.key)}, as_of, load_id"
            self._mark("replaced", table, f"select {key} from again")
            days = self.duck.execute("select distinct as_of from again order by 1").fetchall()
            for (day,) in days:
                self._write_again(table, schema, rows, day)
        return added

    def _write_again(self, table: Table, schema: pa.Schema, rows: str, day: date) -> None:
        name = f"{table.name}_rows/as_of={day}"
        self._write(name, schema, f"{rows} again where as_of = date '{day}'")

    def _write(self, name: str, schema: pa.Schema, query: str) -> int:
        values = [self.loaded_at] if "?" in query else []
        with warnings.catch_warnings():  # that the rows are copied once more
            warnings.simplefilter("ignore", UserWarning)
            found = self.duck.execute(query, values).to_arrow_reader(BATCH)
        path = self.place.folder / name / f"load-{self.load_id}.parquet"
        return write(path, schema, found)
