"""Asset checks beside dbt's tests: the audit, what moved, and how old the served features are."""

# Not `from __future__ import annotations`: Dagster looks at the type of `context`.

import os
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import dagster as dg

from data.database import Database
from orchestration import steps
from orchestration.defs.assets import RETRY, feast_manifest, month_bounds, told, views
from orchestration.report.drift import Drift, as_ofs, drift
from orchestration.report.page import p_text


@dg.multi_asset_check(
    name="audit",
    specs=[
        dg.AssetCheckSpec(
            "online_equals_offline", asset=["online", name], description="Every user and value."
        )
        for name in views()
    ],
    retry_policy=RETRY,
)
def audit() -> Iterator[dg.AssetCheckResult]:
    """Compare every online value with its published one; a difference fails the run."""
    from streamflow_feast.materialize.audit import AuditError

    failure: dg.Failure | None = None
    try:
        with told():
            results = steps.audit()
    except dg.Failure as error:
        cause = error.__cause__.__cause__ if error.__cause__ else None
        failure, results = error, list(cause.results) if isinstance(cause, AuditError) else []
    for result in results:
        if result.view in views():
            yield dg.AssetCheckResult(
                asset_key=["online", result.view],
                passed=result.passed,
                metadata={
                    "users_compared": result.compared,
                    "differing": result.differing,
                    "missing_online": result.missing,
                    "only_online": result.extra,
                    "seconds": round(result.seconds, 3),
                },
            )
    if failure is not None:
        raise failure


@dg.multi_asset_check(
    name="drift",
    specs=[
        dg.AssetCheckSpec(
            "drift",
            asset=["features", name],
            description="Did a feature move since the month before?",
        )
        for name in views()
    ],
)
def drifted(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
    """Warn of features that moved; orchestration/report/drift.py says what that means."""
    month = context.run.tags.get("dagster/partition")
    with Database().connect() as connection:
        start, end = month_bounds(month) if month else (None, None)
        tables = feast_manifest().tables
        there = as_ofs(connection, tables)
        known = [as_of for as_of in reversed(there) if end is None or as_of < end][:2]
        found: list[Drift] = []
        if len(known) == 2 and (start is None or known[0] >= start):
            found = drift(connection, tables, known[1], known[0])
    for name in views():
        mine = [d for d in found if d.table == name]
        moved = [d for d in mine if d.moved]
        yield dg.AssetCheckResult(
            asset_key=["features", name],
            check_name="drift",
            passed=not moved,
            severity=dg.AssetCheckSeverity.WARN,
            description=", ".join(d.feature for d in moved)
            or ("nothing moved" if mine else "there is no earlier month to compare with"),
            metadata=_figures(mine, known),
        )


def _figures(found: list[Drift], known: list[datetime]) -> dict[str, Any]:
    if not found:
        return {}
    records = [
        dg.TableRecord(
            {
                "feature": d.feature,
                "moved": d.moved,
                "distance": round(d.distance, 4),
                "p": p_text(d.p_value),
                "psi": round(d.psi, 4),
                "users_changed": d.changed,
                "nulls": d.nulls,
            }
        )
        for d in found
    ]
    page = f"make report AS_OF={known[0]:%Y-%m-%d}"
    return {"between": f"{known[1]:%Y-%m-%d} and {known[0]:%Y-%m-%d}", "page": page,
            "features": dg.MetadataValue.table(records)}  # fmt: skip


@dg.multi_asset_check(
    name="freshness",
    specs=[
        dg.AssetCheckSpec(
            "fresh", asset=["online", name], description="Is a drop of the last weeks online?"
        )
        for name in views()
    ],
)
def fresh() -> Iterator[dg.AssetCheckResult]:
    """Warn when the served as_of is older than STREAMFLOW_FRESH_DAYS (default 40) days."""
    limit = int(os.environ.get("STREAMFLOW_FRESH_DAYS") or 40)
    with Database().connect() as connection:
        rows = connection.execute(
            "select distinct on (view_name) view_name, as_of from ledger.materializations"
            " where store = 'postgres' order by view_name, materialization_id desc"
        ).fetchall()
    served: dict[str, datetime | None] = dict(rows)
    for name in views():
        as_of = served.get(name)
        days = (datetime.now(timezone.utc) - as_of).days if as_of else None
        yield dg.AssetCheckResult(
            asset_key=["online", name],
            check_name="fresh",
            passed=days is not None and days <= limit,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "as_of": as_of.isoformat() if as_of else "nothing is online",
                "age_days": -1 if days is None else days,
                "limit_days": limit,
            },
        )
