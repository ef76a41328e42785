"""Load a drop: one transaction, COPY into temporary tables, set-based SQL, all or nothing.

A drop is a set of statements about its as_of. Delivering a file again replaces what the drop said
before; of an event that several drops state, the newest drop's statement is in effect. So drops
may come in any order, repeated or corrected, and the rows in effect end up the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import psycopg
from psycopg import sql

from data.contract import Table, declared
from data.database import Database
from data.load.check import DropError
from data.load.drop import Drop, find_drop
from data.load.notices import notices, write_refused
from data.load.stage import Staged, check_rows, stage

LOAD_LOCK = 7_301_002  # advisory lock: loads commit in the order of their load_id
ANALYZE_FROM = 10_000  # rows added from which on the planner's statistics are renewed


@dataclass(frozen=True)
class TableResult:
    """What became of one file, in rows. Every row read was added, a repetition or left out."""

    read: int
    added: int  # new or corrected
    replaced: int  # of the added: in place of what this drop or an older one said
    repeated: int  # said before, in this file or by an earlier delivery of the same drop
    retracted: int  # said by an earlier delivery of the same drop, and no longer
    erased: int = 0  # of who was erased: neither looked at nor loaded


@dataclass(frozen=True)
class LoadResult:
    """What a load did; `str()` is the table that is shown to people."""

    drop: Drop
    load_id: int | None  # None: nothing changed
    tables: dict[str, TableResult]
    warnings: list[str] = field(default_factory=list)
    dry_run: bool = False

    @property
    def changed(self) -> bool:
        """Whether the database is different now."""
        return self.load_id is not None

    def __str__(self) -> str:
        heads = "".join(
            f"{head:>12}" for head in ("read", "added", "replaced", "repeated", "retracted")
        )
        lines = [f"{self.drop.day!s:<18}{heads}"]
        for name, rows in self.tables.items():
            counts = (rows.read, rows.added, rows.replaced, rows.repeated, rows.retracted)
            lines.append(f"{name:<18}" + "".join(f"{count:>12,}" for count in counts))
        done = f"load {self.load_id}" if self.changed else "nothing changed"
        if self.dry_run:
            would = (
                f"`load` would make it load {self.load_id}" if self.changed else "nor would `load`"
            )
            done = f"nothing was loaded; {would}"
        return "\n".join([*lines, *self.warnings, done])


def load(
    folder: Path | str,
    settings: Database | None = None,
    *,
    quarantine: Path | None = None,
    tables: Sequence[Table] | None = None,
) -> LoadResult:
    """Load the drop in `folder`.

    With `quarantine`, a folder, rows with an error are left out and written there with the reasons;
    a file whose header is wrong refuses the drop all the same.

    Raises:
        DropError: something is wrong with the drop; nothing was changed.
    """
    tables = declared() if tables is None else tables
    drop = find_drop(folder, tables)
    settings = settings or Database()
    with settings.connect(application_name="streamflow load") as connection:
        result, files = _take(connection, drop, tables, leave_out=quarantine is not None)
        if quarantine is not None:
            result.warnings.extend(refused_rows(quarantine, drop, files))
    analyze(settings, [n for n, rows in result.tables.items() if rows.added >= ANALYZE_FROM])
    return result


def refused_rows(quarantine: Path, drop: Drop, files: list[Staged]) -> list[str]:
    """Write what was left out below `quarantine`, and say so."""
    return [
        f"{one.report.file}: {len(one.report.refused):,} rows refused, with the reasons in "
        f"{write_refused(quarantine / drop.day.isoformat(), drop, one)}"
        for one in files
        if one.report.refused
    ]


def check(
    folders: Sequence[Path | str],
    settings: Database | None = None,
    *,
    quarantine: bool = False,
    tables: Sequence[Table] | None = None,
) -> Iterator[LoadResult | DropError]:
    """What `load` would do with each of the drops, one after the other; all of it is undone."""
    tables = declared() if tables is None else tables
    with (
        (settings or Database()).connect(application_name="streamflow check") as connection,
        connection.transaction(force_rollback=True),
    ):
        for folder in folders:
            try:
                with connection.transaction():
                    drop = find_drop(folder, tables)
                    result, files = _take(connection, drop, tables, leave_out=quarantine)
                    for staged in files:
                        connection.execute(sql.SQL("drop table {}").format(staged.incoming))
            except DropError as error:
                yield error
                continue
            refused = [str(one.report) for one in files if one.report.refused]
            if refused:
                refused.insert(0, "rows that would be refused:")
            yield replace(result, warnings=[*result.warnings, *refused], dry_run=True)


def _take(
    connection: psycopg.Connection,
    drop: Drop,
    tables: Sequence[Table],
    *,
    leave_out: bool,
) -> tuple[LoadResult, list[Staged]]:
    """Load the drop, in the transaction that is open. It raises DropError."""
    files = [
        stage(connection, table, drop, quarantine=leave_out)
        for table in tables
        if table.name in drop.files
    ]
    # From here on alone: what is read below is what every load before this one left.
    connection.execute("select pg_advisory_xact_lock(%s)", [LOAD_LOCK])
    for staged in files:
        staged.leave_out_erased(connection)
    check_rows(connection, drop, files, tables)
    fatal = [one.report for one in files if one.report.count and not is_row_by_row(one)]
    if fatal:
        raise DropError(drop.folder, fatal)
    load_id, loaded_at = connection.execute(
        "select coalesce(max(load_id), 0) + 1, clock_timestamp() from raw.loads"
    ).fetchone() or (0, None)
    merge = _Merge(connection, drop, load_id, loaded_at)
    results = {staged.table.name: merge.table(staged) for staged in files}
    warnings = notices(connection, drop, files, tables)
    return LoadResult(drop, load_id if merge.changed else None, results, warnings), files


def is_row_by_row(staged: Staged) -> bool:
    """Whether all errors of a file are of rows that may be left out."""
    return (
        staged.report.refused is not None and min(staged.report.refused) >= staged.report.first_row
    )


@dataclass
class _Merge:
    """From the temporary tables into the raw tables, as load `load_id`."""

    connection: psycopg.Connection
    drop: Drop
    load_id: int
    loaded_at: datetime
    changed: list[str] = field(default_factory=list)

    def table(self, staged: Staged) -> TableResult:
        """Make the drop's statements those of the file; every other drop's stay as they are."""
        first = self._seen(staged, "=") == 0
        replaced = 0 if first else self._find_outgoing(staged)
        if staged.table.is_event and self._seen(staged, "<"):
            replaced += self._supersede_older(staged)
        added = self._add(staged)
        retracted = 0 if first else self._retract(staged)
        if first or added or retracted:
            self.changed.append(staged.table.name)
            self.connection.execute(
                "insert into raw.loads values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    self.load_id,
                    staged.table.name,
                    self.drop.as_of,
                    self.loaded_at,
                    staged.rows,
                    added,
                    retracted,
                    staged.sha256,
                    staged.present,
                    staged.erased,
                ],
            )
        repeated = staged.rows - staged.erased - added
        return TableResult(staged.rows, added, replaced, repeated, retracted, staged.erased)

    def _seen(self, staged: Staged, comparison: str) -> int:
        """How often the table was delivered by drops before (<), of (=) or after (>) this as_of."""
        statement = (
            f"select count(*) from raw.loads where table_name = %s and as_of {comparison} %s"
        )
        row = self.connection.execute(
            statement,
            [staged.table.name, self.drop.as_of],
        ).fetchone()
        return row[0] if row else 0

    def _run(self, staged: Staged, statement: str, **parts: sql.Composable) -> int:
        """Execute a statement about one table; the number of rows it touched."""
        composed = sql.SQL(statement).format(
            raw=sql.Identifier("raw", staged.table.name),
            incoming=staged.incoming,
            key=staged.key(),
            old_key=staged.key("r"),
            new_key=staged.key("i"),
            out_key=staged.key("o"),
            again_key=staged.key("a"),
            columns=staged.columns(),
            old=staged.columns("r"),
            new=staged.columns("i"),
            **parts,
        )
        values = {"as_of": self.drop.as_of, "load": self.load_id, "at": self.loaded_at}
        return self.connection.execute(composed, values).rowcount

    def _find_outgoing(self, staged: Staged) -> int:
        """Statements of this drop that the file corrects (how many?) or no longer holds.

        Repeats are dropped: what stays in the temporary table afterwards is new or corrected.
        """
        self._run(
            staged,
            """create temp table outgoing on commit drop as
            select {old_key}, r.load_id, r.superseded_by, i.line -- null: no longer stated
            from {raw} as r left join {incoming} as i on ({new_key}) = ({old_key})
            where r.as_of = %(as_of)s and r.replaced_by is null
                and (i.line is null or ({new}) is distinct from ({old}))""",
        )
        self._run(
            staged,
            """delete from {incoming} as i using {raw} as r
            where ({old_key}) = ({new_key}) and r.as_of = %(as_of)s and r.replaced_by is null
                and ({new}) is not distinct from ({old})""",
        )
        self._run(
            staged,
            """update {raw} as r
            set replaced_by = %(load)s, superseded_by = coalesce(r.superseded_by, %(load)s)
            from outgoing as o
            where ({old_key}) = ({out_key}) and r.as_of = %(as_of)s and r.load_id = o.load_id""",
        )
        return self._run(staged, "select from outgoing where line is not null")

    def _supersede_older(self, staged: Staged) -> int:
        """Statements of older drops that were in effect give way to this drop's."""
        return self._run(
            staged,
            """update {raw} as r set superseded_by = %(load)s from {incoming} as i
            where ({old_key}) = ({new_key}) and r.as_of < %(as_of)s and r.superseded_by is null""",
        )

    def _add(self, staged: Staged) -> int:
        """Insert what is new or corrected; never in effect where a newer drop has spoken."""
        spoken: sql.Composable = sql.SQL("null")
        if staged.table.is_event and self._seen(staged, ">"):
            spoken = sql.SQL(
                """case when exists (
                    select from {raw} as n
                    where ({other}) = ({new_key}) and n.as_of > %(as_of)s and n.replaced_by is null
                ) then %(load)s end"""
            ).format(
                raw=sql.Identifier("raw", staged.table.name),
                other=staged.key("n"),
                new_key=staged.key("i"),
            )
        return self._run(
            staged,
            """insert into {raw} ({columns}, as_of, load_id, loaded_at, superseded_by)
            select {new}, %(as_of)s, %(load)s, %(at)s, {spoken} from {incoming} as i""",
            spoken=spoken,
        )

    def _retract(self, staged: Staged) -> int:
        """Bring back what older drops said about events that this drop takes away."""
        retracted = self._run(staged, "select from outgoing where line is null")
        if staged.table.is_event and retracted:
            self._run(
                staged,
                """with again as (
                    select distinct on ({old_key}) {old}, r.as_of, r.load_id
                    from {raw} as r join outgoing as o on ({old_key}) = ({out_key})
                        and o.superseded_by is null and o.line is null
                    where r.as_of < %(as_of)s and r.replaced_by is null
                    order by {old_key}, r.as_of desc
                ),
                replaced as (
                    update {raw} as r set replaced_by = %(load)s from again as a
                    where ({old_key}) = ({again_key}) and r.as_of = a.as_of
                        and r.load_id = a.load_id
                )
                insert into {raw} ({columns}, as_of, load_id, loaded_at)
                select {columns}, as_of, %(load)s, %(at)s from again""",
            )
        self.connection.execute("drop table outgoing")
        return retracted


def analyze(settings: Database, names: list[str]) -> None:
    """Renew the planner's statistics; a large load makes the old ones useless."""
    if not names:
        return
    with settings.connect() as connection:
        for name in names:
            connection.execute(sql.SQL("analyze {}").format(sql.Identifier("raw", name)))
