"""Rows that another loader put into a raw table become a load: `python -m data stamp <table>`.

They wait with `load_id` null, seen by no build. Stamping numbers them as one load for each as_of,
in one transaction that stands in line with all other loads, so that loads commit in the order of
their load_id. As with files, of an event that is stated again the newest as_of is in effect; unlike
a file, the rows say nothing of those that are not among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import psycopg
from psycopg import sql

from data.contract import Table, declared
from data.database import Database
from data.load.check import show
from data.load.erased import take_out
from data.load.load import ANALYZE_FROM, LOAD_LOCK, analyze


class StampError(ValueError):
    """Rows that wait cannot become a load; nothing was changed."""


@dataclass(frozen=True)
class Stamped:
    """A load that was made of rows that waited."""

    load_id: int
    table: str
    as_of: datetime
    rows: int

    def __str__(self) -> str:
        return f"load {self.load_id}: {self.rows:,} rows of {self.table}, as of {self.as_of:%F %T}"


def stamp(
    name: str,
    settings: Database | None = None,
    *,
    as_of: datetime | None = None,
    lacks: Sequence[str] = (),
) -> list[Stamped]:
    """Make loads of the rows of `raw.<name>` that wait, oldest as_of first; [] where none waits.

    Rows without an `as_of` get the given one (default: the last midnight UTC). `lacks` are columns
    that the other loader knows nothing of, as a file may lack them: no value there means unknown.
    Which those are cannot be seen from the rows: docs/decisions/0014.

    Raises:
        StampError: there is no such table or column, or a row that waits is not as declared.
    """
    tables = {table.name: table for table in declared()}
    if name not in tables:
        raise StampError(f"{show(name)} is no raw table; expected one of {', '.join(tables)}")
    known = [column.name for column in tables[name].columns if column.may_be_absent]
    for column in lacks:
        if column not in known:
            raise StampError(f"{show(column)} cannot lack; expected any of {', '.join(known)}")
    today = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    settings = settings or Database()
    with settings.connect(application_name="streamflow stamp") as connection:
        connection.execute("select pg_advisory_xact_lock(%s)", [LOAD_LOCK])
        (before,) = connection.execute(
            "select coalesce(max(load_id), 0) from raw.loads"
        ).fetchone() or (0,)
        work = _Stamp(connection, tables[name], before, as_of or today)
        erased = take_out(
            connection, tables[name], sql.Identifier("raw", name), sql.SQL("r.load_id is null")
        )
        work.require_known_loads()
        work.require_one_of_each()
        rows = work.number()
        if not rows:
            return []
        work.check()
        work.take_effect()
        loads = work.note(lacks, len(erased))
    if rows >= ANALYZE_FROM:
        analyze(settings, [name])
    return loads


@dataclass
class _Stamp:
    """The rows with a load_id after `before` are those that waited."""

    connection: psycopg.Connection
    table: Table
    before: int
    as_of: datetime

    def _run(self, statement: str, **parts: sql.Composable) -> psycopg.Cursor:
        def key(alias: str) -> sql.Composed:
            return sql.SQL(", ").join(sql.Identifier(alias, name) for name in self.table.key)

        composed = sql.SQL(statement).format(
            raw=sql.Identifier("raw", self.table.name), r=key("r"), n=key("n"), **parts
        )
        return self.connection.execute(composed, {"before": self.before, "as_of": self.as_of})

    def require_known_loads(self) -> None:
        """A load_id of somebody else's making would be taken for one of ours."""
        found = self._run("select max(load_id) from {raw}").fetchone()
        if found and (found[0] or 0) > self.before:
            raise StampError(
                f"raw.{self.table.name} has rows with load_id {found[0]}, which raw.loads does not "
                "know, and nothing was changed: leave load_id null for rows that are to be stamped"
            )

    def require_one_of_each(self) -> None:
        """A key that is there twice for one as_of has no value that is right."""
        found = self._run(
            """select concat_ws(', ', {r}), count(*) over () from {raw} as r where load_id is null
            group by {r}, coalesce(as_of, %(as_of)s) having count(*) > 1 order by 1 limit 1"""
        ).fetchone()
        if found:
            raise self._refused(found[1], found[0], "is there more than once; leave one")

    def _refused(self, count: int, key: str, meaning: str) -> StampError:
        return StampError(
            f"raw.{self.table.name}: {count:,} of what waits cannot be loaded, and nothing was "
            f"changed. {', '.join(self.table.key)} {show(key)} {meaning}"
        )

    def number(self) -> int:
        """Give the rows that wait their loads; how many rows that is."""
        return self._run(
            """update {raw} as r
            set as_of = w.day, load_id = %(before)s + w.place, loaded_at = clock.now
            from (
                select day, row_number() over (order by day) as place
                from (
                    select distinct coalesce(as_of, %(as_of)s) as day from {raw}
                    where load_id is null
                ) as days
            ) as w cross join (select clock_timestamp() as now) as clock
            where r.load_id is null and coalesce(r.as_of, %(as_of)s) = w.day"""
        ).rowcount

    def check(self) -> None:
        """What a file would be refused for, as far as the table's own types leave it possible."""
        for column, wrong, meaning in self._rules():
            found = self._run(
                "select concat_ws(', ', {r}), {column}::text, count(*) over () from {raw} as r"
                " where load_id > %(before)s and ({wrong}) order by 1 limit 1",
                column=sql.Identifier("r", column),
                wrong=wrong,
            ).fetchone()
            if found:
                key, value, count = found
                said = "empty" if value is None else show(value)
                raise self._refused(count, key, f"has {column} {said}; {meaning}")

    def _rules(self) -> Iterator[tuple[str, sql.Composable, str]]:
        """(column, what is wrong with a row, what was expected)."""
        for column in self.table.columns:
            name = sql.Identifier("r", column.name)
            if not column.may_be_absent:
                yield column.name, sql.SQL("{} is null").format(name), f"expected {column.expected}"
            if column.values:
                wrong = sql.SQL("{} <> all({})").format(name, list(column.values))
                yield column.name, wrong, f"expected {column.expected}"
            if column.type.name in ("date", "instant"):
                end = sql.Literal(timedelta(days=1))
                wrong = sql.SQL("{} >= r.as_of + {}").format(name, end)
                yield column.name, wrong, "that lies after its as_of"

    def take_effect(self) -> None:
        """What was stated before for the same as_of gives way; of events also older statements."""
        self._run(
            """update {raw} as r
            set replaced_by = n.load_id, superseded_by = coalesce(r.superseded_by, n.load_id)
            from {raw} as n
            where n.load_id > %(before)s and ({n}) = ({r}) and n.as_of = r.as_of
                and r.load_id <= %(before)s and r.replaced_by is null"""
        )
        if not self.table.is_event:
            return
        newer = """
            from {raw} as n
            where ({n}) = ({r}) and n.as_of > r.as_of and n.replaced_by is null
        """
        self._run(
            f"""update {{raw}} as r set superseded_by = r.load_id
            where r.load_id > %(before)s
                and exists (select {newer} and n.load_id <= %(before)s)"""
        )
        self._run(
            f"""update {{raw}} as r
            set superseded_by = (select min(n.load_id) {newer} and n.load_id > %(before)s)
            where r.superseded_by is null
                and exists (select {newer} and n.load_id > %(before)s)"""
        )

    def note(self, lacks: Sequence[str], erased: int) -> list[Stamped]:
        """Their rows in the ledger of loads; how many were left out stands at the first."""
        recorded = [c.name for c in self.table.columns if c.name not in lacks]
        found = self._run(
            """insert into raw.loads
            select load_id, {name}, as_of, min(loaded_at), count(*), count(*), 0, '', {recorded},
                case when load_id = %(before)s + 1 then {erased} else 0 end
            from {raw} where load_id > %(before)s group by load_id, as_of order by load_id
            returning load_id, as_of, rows_added""",
            name=sql.Literal(self.table.name),
            recorded=sql.Literal(recorded),
            erased=sql.Literal(erased),
        ).fetchall()
        return [Stamped(load, self.table.name, as_of, rows) for load, as_of, rows in found]
