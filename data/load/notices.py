"""What a load tells beside its counts: what is odd, and the rows that it left out."""

from __future__ import annotations

import csv
from pathlib import Path

import psycopg
from psycopg import sql

from data.load.check import show
from data.load.drop import Drop
from data.load.layout import open_bytes, physical_lines
from data.load.stage import Staged

NAMED = 5


def notices(connection: psycopg.Connection, drop: Drop, files: list[Staged]) -> list[str]:
    """Lines about a load that is merged and not yet committed."""
    lines = []
    for staged in files:
        if not staged.complete:
            lines.append(f"{staged.report.file}: the last line has no line end; is it complete?")
        if staged.ignored:
            lines.append(f"{staged.report.file}: ignored {', '.join(map(show, staged.ignored))}")
    if "users" in drop.files:
        lines += _signed_up_that_day(connection, drop)
        lines += _orphans(connection)
    return lines


def _signed_up_that_day(connection: psycopg.Connection, drop: Drop) -> list[str]:
    found = connection.execute(
        "select user_id, count(*) over () from raw.users where as_of = %s"
        " and signup_date >= %s and superseded_by is null order by user_id limit %s",
        [drop.as_of, drop.day, NAMED],
    ).fetchall()
    if not found:
        return []
    return [
        f"users: {found[0][1]:,} signed up on {drop.day} itself ({_named(found)}): nothing is "
        "known of them before that date, so their features begin with the next as_of"
    ]


def _orphans(connection: psycopg.Connection) -> list[str]:
    """Events of users whom a correction took out of every drop."""
    found = connection.execute(
        sql.SQL(
            """
            with gone as (
                select distinct user_id from raw.users as r
                where superseded_by is not null and not exists (
                    select from raw.users as u
                    where u.user_id = r.user_id and u.superseded_by is null
                )
            ),
            rows as (
                select user_id from raw.usage join gone using (user_id) where superseded_by is null
                union all
                select user_id from raw.payments join gone using (user_id)
                where superseded_by is null
                union all
                select user_id from raw.support join gone using (user_id)
                where superseded_by is null
            )
            select user_id, count(*) over (), sum(count(*)) over () from rows
            group by user_id order by user_id limit {}
            """
        ).format(sql.Literal(NAMED))
    ).fetchall()
    if not found:
        return []
    return [
        f"users: {found[0][1]:,} are listed by no drop any more ({_named(found)}); their "
        f"{found[0][2]:,} events stay and are in no feature"
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
        with open_bytes(path) as file:
            texts = {
                number: line.rstrip("\r\n")
                for number, line in enumerate(physical_lines(file), 1)
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
