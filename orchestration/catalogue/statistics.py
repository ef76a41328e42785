"""A feature's values over its as_of's: how many, how many null, and how they are distributed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from orchestration.report.drift import INSTANTS, NUMBERS, as_ofs, drift
from streamflow_feast.dbt.manifest import Column, FeatureTable
from streamflow_feast.dbt.types import without_digits

PAST = 12  # as_of's
MONTH = timedelta(days=28)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
CATEGORIES = 5
Series = list[dict[str, Any]]  # an entry an as_of, the oldest first


def statistics(
    connection: psycopg.Connection, table: FeatureTable
) -> tuple[dict[str, Series], dict[str, dict[str, Any]]]:
    """Feature -> its series over the newest as_of's, and feature -> its drift in the newest of them
    against a month before (none while there is only one)."""
    every = sorted(set(as_ofs(connection, [table])))  # (of one table, they come a row each)
    days = every[-PAST:]
    series = {
        column.name: _series(connection, table, column, days) if days else []
        for column in table.columns
    }
    if len(every) < 2:
        return series, {}
    before, now = a_month_before(every), every[-1]
    moved = {
        found.feature: {
            **{k: v for k, v in asdict(found).items() if k not in ("table", "feature")},
            "before": before.isoformat(),
            "as_of": now.isoformat(),
            "test": found.test,
            "psi_band": found.psi_band,
        }
        for found in drift(connection, [table], before, now)
    }
    return series, moved


def a_month_before(days: Sequence[datetime]) -> datetime:
    """Of ascending as_of's, the newest that lies a month (28 days) before the last; where there is
    none so old, the oldest."""
    old = [day for day in days if day <= days[-1] - MONTH]
    return old[-1] if old else days[0]


def _series(
    connection: psycopg.Connection,
    table: FeatureTable,
    column: Column,
    days: Sequence[datetime],
) -> Series:
    number = without_digits(column.type) in NUMBERS and column.type not in INSTANTS
    name = sql.Identifier(column.name)
    finite = sql.SQL("nullif(nullif(nullif({}::float8, 'NaN'), 'Infinity'), '-Infinity')")
    value = finite.format(name) if number else sql.SQL("null::float8")
    rows = connection.execute(
        sql.SQL(
            "select as_of, count(*), count(*) - count({name}), avg({value}),"
            " percentile_disc(%s::float8[]) within group (order by {value})"
            " from {relation} where as_of = any(%s) group by as_of order by as_of"
        ).format(name=name, value=value, relation=_latest(table)),
        [list(QUANTILES), list(days)],
    ).fetchall()
    shares = {} if number else _shares(connection, table, column, days)
    return [
        {
            "as_of": as_of.isoformat(),
            "rows": count,
            "nulls": nulls,
            "mean": mean,
            "quantiles": quantiles if number and mean is not None else [],
            "shares": shares.get(as_of, {}),
        }
        for as_of, count, nulls, mean, quantiles in rows
    ]


def _shares(
    connection: psycopg.Connection,
    table: FeatureTable,
    column: Column,
    days: Sequence[datetime],
) -> Mapping[datetime, dict[str, float]]:
    """Of booleans and texts: as_of -> value -> its share, of the values that are most frequent."""
    if column.type not in ("boolean", "text"):
        return {}
    rows = connection.execute(
        sql.SQL(
            "select as_of, {name}::text, count(*), sum(count(*)) over (partition by {name})"
            " from {relation} where as_of = any(%s) and {name} is not null group by as_of, {name}"
        ).format(name=sql.Identifier(column.name), relation=_latest(table)),
        [list(days)],
    ).fetchall()
    totals = {value: total for _, value, _, total in rows}
    most = sorted(totals, key=lambda value: (-totals[value], value))[:CATEGORIES]
    all_of: dict[datetime, int] = {}
    for as_of, _, count, _ in rows:
        all_of[as_of] = all_of.get(as_of, 0) + count
    counts = {(as_of, value): count for as_of, value, count, _ in rows}
    return {
        as_of: {value: counts.get((as_of, value), 0) / of for value in most}
        for as_of, of in all_of.items()
    }


def _latest(table: FeatureTable) -> sql.Identifier:
    return sql.Identifier("published", f"{table.name}_latest")
