"""A month as the ledger and the published views have it: what the report shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from orchestration.report.drift import Drift, as_ofs, drift
from streamflow_feast.dbt.manifest import FeatureTable, manifest_path, read_manifest


class ReportError(ValueError):
    """There is nothing to report on; says what there is."""


@dataclass(frozen=True)
class Month:
    """What the page shows. Rows come as named tuples in the order of the SQL below."""

    as_of: datetime
    before: datetime | None
    made_at: datetime
    publication: Any  # known_at, published_at, code_version, tests_run, invocation_id
    deliveries: list[Any]
    views: list[Any]
    nulls: dict[str, int]  # table.feature -> nulls at as_of
    rows: dict[str, int]  # table -> rows at as_of
    tests: list[Any]  # none: published by a release that did not keep them
    audits: list[Any]
    drift: list[Drift]
    tables: Sequence[FeatureTable]


DELIVERIES = """
select table_name, max(loaded_at) as loaded_at, sum(rows_added)::bigint as added,
    sum(rows_retracted)::bigint as retracted, count(*) as loads
from raw.loads where as_of = %s group by table_name order by table_name
"""
PUBLICATION = """
select known_at, published_at, code_version, tests_run, invocation_id
from ledger.publications order by known_at desc limit 1
"""
TESTS = """
select name, status, failures from ledger.tests where invocation_id = %s order by status, name
"""
VIEWS = """
select distinct on (view_name) view_name, as_of, publication, materialized_at
from ledger.materializations where store = 'postgres' order by view_name, materialization_id desc
"""
AUDITS = """
select distinct on (view_name, store) view_name, store, as_of, publication, compared, differing,
    missing, extra, audited_at
from ledger.audits order by view_name, store, audit_id desc
"""


def read_month(connection: psycopg.Connection, as_of: date) -> Month:
    """Everything about one snapshot and the one before it.

    Raises:
        ReportError: nothing is published as of that day.
    """
    named = connection.cursor(row_factory=namedtuple_row)
    tables = read_manifest(manifest_path()).tables
    instant = datetime(as_of.year, as_of.month, as_of.day, tzinfo=timezone.utc)
    known = as_ofs(connection, tables)
    if instant not in known:
        there = ", ".join(f"{day:%Y-%m-%d}" for day in known[-12:]) or "nothing yet"
        raise ReportError(f"no features are published as of {as_of}; there is: {there}")
    before = max((day for day in known if day < instant), default=None)
    publication: Any = named.execute(PUBLICATION).fetchone()
    rows, nulls = _counts(connection, tables, instant)
    return Month(
        as_of=instant,
        before=before,
        made_at=datetime.now(timezone.utc),
        publication=publication,
        deliveries=named.execute(DELIVERIES, [instant]).fetchall(),
        views=named.execute(VIEWS).fetchall(),
        nulls=nulls,
        rows=rows,
        tests=named.execute(TESTS, [publication.invocation_id]).fetchall(),
        audits=named.execute(AUDITS).fetchall(),
        drift=drift(connection, tables, before, instant) if before else [],
        tables=tables,
    )


def _counts(
    connection: psycopg.Connection, tables: Sequence[FeatureTable], as_of: datetime
) -> tuple[dict[str, int], dict[str, int]]:
    """Rows of each table, and nulls of each feature (by table.feature), at one as_of."""
    rows, nulls = {}, {}
    for table in tables:
        columns = [psycopg.sql.Identifier(column.name) for column in table.columns]
        row: Any = connection.execute(
            psycopg.sql.SQL("select count(*), {} from {} where as_of = %s").format(
                psycopg.sql.SQL(", ").join(
                    psycopg.sql.SQL("count(*) - count({})").format(c) for c in columns
                ),
                psycopg.sql.Identifier("published", f"{table.name}_latest"),
            ),
            [as_of],
        ).fetchone()
        # By position: names repeat.
        rows[table.name] = row[0]
        for column, count in zip(table.columns, row[1:], strict=True):
            nulls[f"{table.name}.{column.name}"] = count
    return rows, nulls
