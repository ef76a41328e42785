"""What the ledger says of publications: which definitions readers see."""

from __future__ import annotations

import sys
from datetime import datetime

import psycopg

from data.database import Database
from streamflow_feast.connections import DatabaseUnreachable, read
from streamflow_feast.dbt.manifest import Manifest, as_published, parse_manifest
from streamflow_feast.lake.ledger import mirrored


def published_manifest(settings: Database, known_at: datetime | None = None) -> Manifest | None:
    """The feature tables and services of the newest publication (up to `known_at`).

    None: nothing is published yet, or by a release that did not keep them.
    """
    query = (
        "select manifest from ledger.publications"
        " where %(known_at)s::timestamptz is null or known_at <= %(known_at)s"
        " order by known_at desc limit 1"
    )
    row = read(settings, lambda c: c.execute(query, {"known_at": known_at}).fetchone())
    return parse_manifest(row[0]) if row and row[0] else None


class PrunedError(ValueError):
    """What was known at an instant cannot be told in full any more; says from when on it can."""


def require_answer(connection: psycopg.Connection, known_at: datetime | None) -> None:
    """Raise PrunedError if versions that were known at the instant are gone (`make prune`)."""
    if known_at is None:
        return
    there = connection.execute("select to_regclass('ledger.prunings')").fetchone()
    if there == (None,):
        return  # a database of somebody else's, or of an earlier release
    row = connection.execute("select max(answers_from) from ledger.prunings").fetchone()
    if row and row[0] and known_at < row[0]:
        raise PrunedError(
            f"what was known at {known_at:%Y-%m-%dT%H:%M:%SZ} cannot be told any more: versions "
            f"that were replaced before {row[0].isoformat()} are gone (make prune). Ask for that "
            "instant or a later one"
        )


def published_part(defined: Manifest, settings: Database | None = None) -> Manifest:
    """Of dbt's manifest, what is published; all of it as long as nothing is.

    Says on stderr what is left out. Where the database can't be asked, as in a check of the
    definitions alone, the manifest is taken as it is.
    """
    try:
        if defined.adapter == "spark":
            mirrored(settings)
        published = published_manifest(settings or Database())
    except (DatabaseUnreachable, psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return defined
    if published is None:
        return defined
    manifest, notes = as_published(defined, published)
    if notes:
        print(
            f"Not published yet: {'; '.join(notes)}. What is published is applied; to publish: "
            "cd dbt_project && dbt build",
            file=sys.stderr,
        )
    return manifest
