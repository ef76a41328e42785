"""Files into temporary tables, and the checks that need all rows of a file at once."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from data.contract import Column, Table, listers
from data.load.check import SHOWN, Problem, Report, show
from data.load.drop import Drop
from data.load.erased import take_out
from data.load.layout import Layout, read_layout
from data.load.read import Scan, SuspectError, fast_rows, scan, slow_rows

ROWS_A_BLOCK = 5_000
PIECE = 1 << 16


@dataclass
class Staged:
    """One file of a drop in its temporary table `incoming_<table>`: `line` and the columns."""

    table: Table
    report: Report
    sha256: str
    complete: bool  # ends with a line end
    rows: int = 0
    erased: int = 0  # of the rows, those that were left out as somebody's who was erased
    present: list[str] = field(default_factory=list)  # the table's columns that the file has
    ignored: list[str] = field(default_factory=list)  # columns of the file that nobody needs

    @property
    def incoming(self) -> sql.Identifier:
        """The temporary table."""
        return sql.Identifier(f"incoming_{self.table.name}")

    def leave_out_erased(self, connection: psycopg.Connection) -> None:
        """Take out rows of who was erased, before anybody looks at them or writes them down."""
        lines = set(take_out(connection, self.table, self.incoming, returning="line"))
        self.erased += len(lines)
        self.report.forget(lines)

    def columns(self, alias: str = "") -> sql.Composed:
        """The table's columns, for a select list or an insert."""
        return _listed([column.name for column in self.table.columns], alias)

    def key(self, alias: str = "") -> sql.Composed:
        """The columns that name a row."""
        return _listed(self.table.key, alias)


def _listed(names: Sequence[str], alias: str) -> sql.Composed:
    prefix = (alias,) if alias else ()
    return sql.SQL(", ").join(sql.Identifier(*prefix, name) for name in names)


def stage(
    connection: psycopg.Connection, table: Table, drop: Drop, *, quarantine: bool = False
) -> Staged:
    """Copy a file into a temporary table, noting in its report what is wrong with single rows.

    Wrong cells are staged as NULL, so that the checks of whole files can go on without them. With
    `quarantine` the report keeps every error, and `check_rows` takes the wrong rows out.
    """
    path = drop.files[table.name]
    staged, look = looked_at(table, drop, quarantine=quarantine)
    report = staged.report
    fields = [sql.SQL("line bigint")] + [
        sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.type.sql))
        for column in table.columns
    ]
    connection.execute(
        sql.SQL("create temp table {} ({}) on commit drop").format(
            staged.incoming, sql.SQL(", ").join(fields)
        )
    )
    layout = layout_of(staged, drop)
    if layout is None:
        return staged
    header = layout.columns
    try:
        if not (look.plain and layout.is_plain):
            raise SuspectError("another form")
        with connection.transaction():
            staged.rows = _copy(connection, staged, header, fast_rows(path, header, drop.day))
    except SuspectError:
        rows = as_csv(slow_rows(path, layout, drop.day, report))
        staged.rows = _copy(connection, staged, header, rows)
    connection.execute(sql.SQL("analyze {}").format(staged.incoming))
    return staged


def looked_at(table: Table, drop: Drop, *, quarantine: bool) -> tuple[Staged, Scan]:
    """A file of which the bytes have been read once, and none of its rows."""
    path = drop.files[table.name]
    report = Report(path.name, refused={} if quarantine else None)
    look = scan(path, report)
    complete = look.ends_with_newline or not look.size
    return Staged(table, report, look.sha256, complete), look


def layout_of(staged: Staged, drop: Drop) -> Layout | None:
    """How the file is laid out; None, with the reason in its report, where that is no use."""
    name, report = staged.table.name, staged.report
    layout = None
    if not report.count:
        layout = read_layout(drop.files[name], staged.table, drop.forms.get(name), report)
    if layout is None:
        report.keys_lost = True
        return None
    staged.ignored = layout.ignored
    report.first_row = 1 + layout.has_header
    staged.present = [column.name for column in layout.columns]
    return layout


def _copy(
    connection: psycopg.Connection, staged: Staged, header: list[Column], blocks: Iterator[bytes]
) -> int:
    """Send CSV blocks to the temporary table; the number of rows."""
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in header)
    command = sql.SQL("copy {} (line, {}) from stdin (format csv)")
    with connection.cursor() as cursor:
        with cursor.copy(command.format(staged.incoming, names)) as copy:
            for block in blocks:
                # libpq moves what is unsent after every packet: megabytes at once take minutes.
                for start in range(0, len(block), PIECE):
                    copy.write(block[start : start + PIECE])
        return cursor.rowcount


def as_csv(rows: Iterator[list[str | None]]) -> Iterator[bytes]:
    """Rows as CSV blocks; None becomes an empty cell, which COPY takes for NULL."""
    out = io.StringIO()
    writer = csv.writer(out)
    for number, row in enumerate(rows, 1):
        writer.writerow(row)
        if number % ROWS_A_BLOCK == 0:
            yield out.getvalue().encode()
            out.seek(0)
            out.truncate()
    yield out.getvalue().encode()


def check_rows(
    connection: psycopg.Connection, drop: Drop, files: list[Staged], tables: Sequence[Table]
) -> None:
    """Note rows stated twice, ids with two meanings and unknown users; drop exact repeats.

    A user (or any other entity that a state lists) is known when another drop's rows are in effect
    that name it, or when this drop does: in the folder's users.csv, or else as loaded before. Where
    errors in users.csv leave open whom it lists, they alone are told: each of its users would be
    unknown in every other file.
    """
    lists = listers(tables)
    first = [table.name for table in lists.values()]  # the rows of a refused user are refused too
    here = {staged.table.name: staged for staged in files}
    for staged in sorted(files, key=lambda one: one.table.name not in first):
        _take_out_refused(connection, staged)
        form = drop.forms.get(staged.table.name)
        _check_repeats(connection, staged, form.repeats if form else "error")
        for column in staged.table.columns:
            lister = lists.get(column.entity)
            if lister is None or (lister is staged.table and column.name in lister.key):
                continue
            listed = here.get(lister.name)
            unsure = listed is not None and listed.report.keys_lost
            if not unsure or staged.report.refused is not None:
                _check_known(connection, drop, staged, column, lister, listed)
                _take_out_refused(connection, staged)


def _take_out_refused(connection: psycopg.Connection, staged: Staged) -> None:
    if staged.report.refused:
        staged.rows -= connection.execute(
            sql.SQL("delete from {} where line = any(%s)").format(staged.incoming),
            [list(staged.report.refused)],
        ).rowcount


def _check_repeats(connection: psycopg.Connection, staged: Staged, repeats: str) -> None:
    """Leave one row a key; note the others, unless a mapping says which one counts."""
    connection.execute(
        sql.SQL(
            """create temp table twice on commit drop as
            select {key}, {which}(line) as line from {incoming}
            where ({key}) is not null group by {key} having count(*) > 1"""
        ).format(
            key=staged.key(),
            which=sql.SQL("max" if repeats == "last" else "min"),
            incoming=staged.incoming,
        )
    )
    if repeats == "error":
        _note_repeats(connection, staged)
        _take_out_refused(connection, staged)
    connection.execute(
        sql.SQL(
            "delete from {incoming} as i using twice"
            " where ({i}) = ({twice}) and i.line <> twice.line"
        ).format(incoming=staged.incoming, i=staged.key("i"), twice=staged.key("twice"))
    )
    connection.execute("drop table twice")


def _note_repeats(connection: psycopg.Connection, staged: Staged) -> None:
    different: sql.Composable = sql.SQL("true")
    if staged.table.is_event:
        different = sql.SQL("({}) is distinct from ({})").format(
            staged.columns("again"), staged.columns("once")
        )
    found = connection.execute(
        sql.SQL(
            """select again.line, concat_ws(', ', {again}), twice.line, count(*) over ()
            from twice
            join {incoming} as once on once.line = twice.line
            join {incoming} as again on ({again}) = ({twice}) and again.line > twice.line
            where {different} order by again.line limit {shown}"""
        ).format(
            again=staged.key("again"),
            twice=staged.key("twice"),
            incoming=staged.incoming,
            different=different,
            shown=_most(staged),
        )
    ).fetchall()
    note_repeats(staged, found)


def note_repeats(staged: Staged, found: list[tuple[int, str, int, int]]) -> None:
    """Note rows stated twice: (line, key, the other line, how many there are)."""
    meaning = (
        "has other values on line {}; one id, one event"
        if staged.table.is_event
        else f"is already on line {{}}; expected {staged.table.row}"
    )
    where = ", ".join(staged.table.key)
    _note(staged, where, [(line, key, meaning.format(n), c) for line, key, n, c in found])


def _check_known(
    connection: psycopg.Connection,
    drop: Drop,
    staged: Staged,
    column: Column,
    lister: Table,
    listed: Staged | None,
) -> None:
    """Note the rows of which a column names one of an entity that nothing lists."""
    known = "select from {lister} as r where r.{id} = n.id and r.superseded_by is null"
    if listed is not None:
        known += " and r.as_of <> %(as_of)s"
        known += ") and not exists (select from {listed} as i where i.{id} = n.id"
    found = connection.execute(
        sql.SQL(
            f"""with
            named as (select distinct {{column}} as id from {{incoming}}),
            unknown as (
                select id from named as n where id is not null and not exists ({known})
            )
            select i.line, u.id::text, count(*) over ()
            from {{incoming}} as i join unknown as u on i.{{column}} = u.id
            order by i.line limit {{shown}}"""
        ).format(
            incoming=staged.incoming,
            column=sql.Identifier(column.name),
            lister=sql.Identifier("raw", lister.name),
            listed=listed.incoming if listed else sql.SQL(""),
            id=sql.Identifier(lister.key[0]),
            shown=_most(staged),
        ),
        {"as_of": drop.as_of},
    ).fetchall()
    note_unknown(staged, column, lister, found)


def note_unknown(
    staged: Staged, column: Column, lister: Table, found: list[tuple[int, str, int]]
) -> None:
    """Note rows that name one whom nothing lists: (line, name, how many there are)."""
    meaning = (
        f"is not known; expected a {column.entity} of {lister.file} in this or an earlier loaded "
        "drop"
    )
    _note(staged, column.name, [(line, name, meaning, count) for line, name, count in found])


def _most(staged: Staged) -> sql.SQL:
    return sql.SQL(most(staged))


def most(staged: Staged) -> str:
    """How many wrong rows to ask for, as a limit."""
    return str(SHOWN) if staged.report.refused is None else "all"


def _note(staged: Staged, column: str, found: list[tuple[int, str, str, int]]) -> None:
    problems = [Problem(line, column, f"{show(value)} {text}") for line, value, text, _ in found]
    staged.report.extend(problems, found[0][3] if found else 0)
