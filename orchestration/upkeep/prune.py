"""Let go of what nobody can ask for any more: `make prune KEEP=2years`.

What was known at any instant of the last KEEP stays answerable to the byte, and so does everything
that is newest, however old. Gone are: versions that a later one had replaced before then, raw rows
that their own drop replaced, what failed builds left, results of old tests, definitions of old
publications, old audits and materializations, old reports. Asked for an instant before that, a
training set is an error.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from data.contract import declared
from data.database import Database
from data.errors import command
from data.load.load import LOAD_LOCK
from data.paths import PROCESSED
from orchestration.steps import say
from orchestration.upkeep.waiting import BUILD_LOCK, wait_for_build

UNITS = {"day": 1, "week": 7, "month": 31, "year": 366}
SIZE = """
select coalesce(sum(pg_total_relation_size(pg_class.oid)), 0)::bigint from pg_class
join pg_namespace on pg_namespace.oid = relnamespace
where nspname in ('raw', 'staging', 'features', 'online', 'ledger') and relkind in ('r', 'm')
"""
# Table of the ledger -> which of its rows go. %(before)s is the end of what is kept, %(known)s the
# publication that was the newest then.
LEDGER = {
    "tests": "invocation_id in"
    " (select invocation_id from ledger.builds where known_at < %(known)s)",
    "audits": "audited_at < %(before)s and audit_id not in"
    " (select max(audit_id) from ledger.audits group by view_name, store)",
    "materializations": "materialized_at < %(before)s and materialization_id not in"
    " (select max(materialization_id) from ledger.materializations group by view_name, store)",
    "builds": "known_at < %(before)s and status = 'unpublished' and not exists"
    " (select from ledger.tests where tests.invocation_id = builds.invocation_id)",
}  # fmt: skip


class PruneError(ValueError):
    """Nothing was taken out; the text says why."""


@dataclass
class Pruned:
    """What went, and what can still be asked."""

    kept: timedelta
    answers: tuple[datetime | None, datetime | None]  # KNOWN_AT from ..., before and after
    removed: Counter[str] = field(default_factory=Counter)
    bytes_before: int = 0
    bytes_after: int = 0


def duration(text: str) -> timedelta:
    """90days, 18months, 2years (31 and 366 days are counted for a month and a year, so that more
    is kept rather than less).

    Raises:
        PruneError: it is none of these.
    """
    found = re.fullmatch(r"\s*(\d{1,5})\s*(day|week|month|year)s?\s*", text)
    if not found:
        raise PruneError(f"KEEP is {text!r}; expected for example 90days, 18months or 2years")
    return timedelta(days=int(found[1]) * UNITS[found[2]])


def prune(keep: timedelta, folder: Path = PROCESSED) -> Pruned:
    """Take out what is older than `keep`, in one transaction, and old reports in `folder`."""
    settings = Database()
    with settings.connect(application_name="streamflow prune") as connection:
        connection.execute("select pg_advisory_xact_lock(%s)", [LOAD_LOCK])
        connection.execute(BUILD_LOCK)
        wait_for_build(connection, PruneError("a dbt build is still running. Run this again"))
        done, touched = _in_database(connection, keep)
    with settings.connect(application_name="streamflow prune") as connection:
        connection.autocommit = True
        for schema, name in touched:
            connection.execute(sql.SQL("vacuum (analyze) {}").format(sql.Identifier(schema, name)))
        done.bytes_after = _one(connection, SIZE)
        connection.execute(
            "update ledger.prunings set bytes_after = %s where pruning_id ="
            " (select max(pruning_id) from ledger.prunings)",
            [done.bytes_after],
        )
        before = _one(connection, "select clock_timestamp() - %s::interval", keep)
    for file in sorted([*folder.glob("report_*.html"), *folder.glob("refused/*/*.csv")]):
        if file.stat().st_mtime < before.timestamp():
            file.unlink()
            done.removed["reports"] += 1
    return done


def _in_database(
    connection: psycopg.Connection, keep: timedelta
) -> tuple[Pruned, list[tuple[str, str]]]:
    before = _one(connection, "select clock_timestamp() - %s::interval", keep)
    first, newest, answers = connection.execute(
        "select min(known_at), max(known_at), (select max(answers_from) from ledger.prunings)"
        " from ledger.publications"
    ).fetchone() or (None, None, None)
    known, load_to = connection.execute(
        "select known_at, load_to from ledger.publications where known_at <= %s"
        " order by known_at desc limit 1",
        [before],
    ).fetchone() or (None, 0)
    done = Pruned(keep, (answers or first, answers or first))
    done.bytes_before = _one(connection, SIZE)
    touched = []
    if newest is not None:
        for name, keys in _versions(connection):
            table = sql.Identifier("features", name)
            rows = connection.execute(
                sql.SQL("delete from {} where known_at > %s").format(table), [newest]
            ).rowcount
            if known is not None:
                rows += connection.execute(_superseded(table, keys), {"known": known}).rowcount
            done.removed[f"features.{name}"] += rows
            touched += [("features", name)] if rows else []
    if known is not None:
        for declaration in declared():
            rows = connection.execute(
                sql.SQL(
                    "delete from {} where replaced_by <= %(load)s and superseded_by <= %(load)s"
                ).format(sql.Identifier("raw", declaration.name)),
                {"load": load_to},
            ).rowcount
            done.removed[f"raw.{declaration.name}"] += rows
            touched += [("raw", declaration.name)] if rows else []
        parameters = {"before": before, "known": known}
        for name, which in LEDGER.items():
            rows = connection.execute(
                f"delete from ledger.{name} where {which}",
                parameters,
            ).rowcount
            done.removed[f"ledger.{name}"] += rows
            touched += [("ledger", name)] if rows else []
        rows = connection.execute(
            "update ledger.publications set manifest = null, definitions = '{}'"
            " where known_at < %(known)s and manifest is not null",
            parameters,
        ).rowcount
        done.removed["definitions of ledger.publications"] += rows
        touched += [("ledger", "publications")] if rows else []
        if known != first:
            done.answers = (done.answers[0], max(known, answers or known))
    if sum(done.removed.values()):
        connection.execute(
            "insert into ledger.prunings (kept, answers_from, raw_answers_from, removed,"
            " bytes_before, bytes_after) values (%s, %s, %s, %s, %s, %s)",
            [
                keep, done.answers[1] if done.answers[1] != first else answers, load_to,
                json.dumps({place: rows for place, rows in done.removed.items() if rows}),
                done.bytes_before, done.bytes_before,
            ],
        )  # fmt: skip
    return done, touched


def _superseded(table: sql.Composable, keys: Sequence[str]) -> sql.Composed:
    """Versions of a pair that another one had replaced by the publication `known`."""
    pair = [*keys, "as_of"]
    return sql.SQL(
        "delete from {table} as old using ("
        "select {pair}, max(known_at) as stands from {table} where known_at <= %(known)s"
        " group by {pair} having count(*) > 1) as newest"
        " where ({old}) = ({newest}) and old.known_at < newest.stands"
    ).format(
        table=table,
        pair=sql.SQL(", ").join(map(sql.Identifier, pair)),
        old=sql.SQL(", ").join(sql.Identifier("old", name) for name in pair),
        newest=sql.SQL(", ").join(sql.Identifier("newest", name) for name in pair),
    )


def _versions(connection: psycopg.Connection) -> list[tuple[str, list[str]]]:
    """The tables of versions, with their join keys."""
    return connection.execute(
        "select relname::text, array_agg(attname::text order by attnum)"
        " from pg_index join pg_class on pg_class.oid = indrelid"
        " join pg_attribute on attrelid = indrelid and attnum = any(indkey)"
        " where relnamespace = 'features'::regnamespace and indisprimary"
        " and attname not in ('as_of', 'known_at') group by relname order by relname"
    ).fetchall()


def _one(connection: psycopg.Connection, query: str, *parameters: object) -> Any:
    row = connection.execute(query, parameters or None).fetchone()
    assert row is not None
    return row[0]


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestration prune", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--keep", required=True, help="90days, 18months, 2years")
    options = parser.parse_args(arguments)
    done = prune(duration(options.keep))
    was, now = (f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else "nothing yet" for at in done.answers)
    say(f"  before: KNOWN_AT answers from {was} on; {done.bytes_before:,} bytes")
    for place, rows in done.removed.items():
        if rows:
            say(f"  {place}: {rows:,}")
    say(f"  after:  KNOWN_AT answers from {now} on; {done.bytes_after:,} bytes")
    return 0
