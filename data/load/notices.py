"""What a load tells beside its counts: what is odd, and the rows that it left out."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import psycopg
from psycopg import sql

from data.contract import Table, listers
from data.load.check import show
from data.load.drop import Drop
from data.load.layout import open_bytes, physical_lines
from data.load.stage import Staged

NAMED = 5


def notices(
    connection: psycopg.Connection, drop: Drop, files: list[Staged], tables: Sequence[Table]
) -> list[str]:
    """Lines about a load that is merged and not yet committed."""
    lines = of_files(files)
    for entity, table in listers(tables).items():
        if table.name in drop.files:
            lines += _begin_that_day(connection, drop, table)
            lines += _orphans(connection, entity, table, tables)
    return lines


def of_files(files: list[Staged]) -> list[str]:
    """What the files alone tell."""
    lines = []
    for staged in files:
        if not staged.complete:
            lines.append(f"{staged.report.file}: the last line has no line end; is it complete?")
        if staged.erased:
            lines.append(
                f"{staged.report.file}: {staged.erased:,} rows left out, of who was erased"
            )
        if staged.report.left_out:
            lines.append(
                f"{staged.report.file}: {staged.report.left_out:,} rows left out by `only`"
            )
        if staged.ignored:
            lines.append(f"{staged.report.file}: ignored {', '.join(map(show, staged.ignored))}")
    return lines


def _begin_that_day(connection: psycopg.Connection, drop: Drop, table: Table) -> list[str]:
    if not table.since:
        return []
    found = connection.execute(
        sql.SQL(
            "select {id}::text, count(*) over () from {raw} where as_of = %s"
            " and {since} >= %s and superseded_by is null order by {id} limit %s"
        ).format(
            id=sql.Identifier(table.key[0]),
            raw=sql.Identifier("raw", table.name),
            since=sql.Identifier(table.since),
        ),
        [drop.as_of, drop.day, NAMED],
    ).fetchall()
    return begin_that_day(drop, table, found)


def begin_that_day(drop: Drop, table: Table, found: list[tuple]) -> list[str]:
    """Of (id, how many there are)."""
    if not found:
        return []
    return [
        f"{table.name}: {found[0][1]:,} have {table.since} {drop.day} itself ({_named(found)}): "
        "nothing is known of them before that date, so their features begin with the next as_of"
    ]


def _orphans(
    connection: psycopg.Connection, entity: str, lister: Table, tables: Sequence[Table]
) -> list[str]:
    """Events of users (say) whom a correction took out of every drop."""
    events = [
        sql.SQL("select g.id from {} as r join gone as g on r.{} = g.id where {}").format(
            sql.Identifier("raw", table.name),
            sql.Identifier(column.name),
            sql.SQL("r.superseded_by is null"),
        )
        for table in tables
        for column in table.columns
        if table.is_event and column.entity == entity
    ]
    if not events:
        return []
    found = connection.execute(
        sql.SQL(
            """
            with gone as (
                select distinct r.{id} as id from {lister} as r
                where superseded_by is not null and not exists (
                    select from {lister} as u where u.{id} = r.{id} and u.superseded_by is null
                )
            ),
            rows as ({events})
            select id::text, count(*) over (), sum(count(*)) over () from rows
            group by id order by id limit {named}
            """
        ).format(
            id=sql.Identifier(lister.key[0]),
            lister=sql.Identifier("raw", lister.name),
            events=sql.SQL(" union all ").join(events),
            named=sql.Literal(NAMED),
        )
    ).fetchall()
    return orphans(entity, lister, found)


def orphans(entity: str, lister: Table, found: list[tuple]) -> list[str]:
    """Of (id, how many there are, how many events they have)."""
    if not found:
        return []
    return [
        f"{lister.name}: {found[0][1]:,} are listed by no drop any more ({_named(found)}); their "
        f"{found[0][2]:,} events stay and are in no feature of the {entity}"
    ]


def _named(found: list[tuple]) -> str:
    more = found[0][1] - len(found)
    return ", ".join(show(row[0]) for row in found) + (f" and {more:,} more" if more > 0 else "")


def write_refused(folder: Path, drop: Drop, staged: Staged) -> Path:
    """The rows that a load left out: line, reasons, and the line as it stands in the file."""
    refused = staged.report.refused or {}
    path = drop.files[staged.table.name]
    texts: dict[int, str] = {}
    if path.suffix != ".parquet":
        form = drop.forms.get(staged.table.name)
        encoding = form.encoding if form else ""
        with open_bytes(path) as file:
            texts = {
                number: line.rstrip("\r\n")
                for number, line in enumerate(physical_lines(file, encoding), 1)
                if number in refused
            }
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"{staged.table.name}.csv"
    with out.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["line", "reasons", "row"])
        for line, reasons in sorted(refused.items()):
            writer.writerow([line, "; ".join(reasons), texts.get(line, "")])
    return out
