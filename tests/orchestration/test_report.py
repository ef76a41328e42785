"""Drift and the report. A feature that moved and is not named misleads who retrains the model."""

from __future__ import annotations

import re
from datetime import date, datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from data.database import Database
from orchestration import steps
from orchestration.report import drift, report
from streamflow_feast.dbt.manifest import Column, EntityModel, FeatureTable

REAL = Path(__file__).resolve().parents[3] / "shared" / "streamflow"
BEFORE, NOW = (datetime(2024, *day, tzinfo=timezone.utc) for day in ((1, 31), (2, 29)))
TYPES = {"watch_hours_30d": "double precision", "rebuffer_events_7d": "bigint",
         "months_active": "bigint", "plan_stream_tv": "boolean", "contract_type": "text",
         "monthly_fee": "double precision", "total_paid": "double precision"}  # fmt: skip


def test_statistics_equal_the_tables_in_books() -> None:
    # Kolmogorov's 5 % point, chi-square's 5 % points for 1, 2, 3 and 10 degrees of freedom.
    assert drift.ks_p_value(1.3581 / np.sqrt(5e5), 10**6, 10**6) == pytest.approx(0.05, rel=1e-2)
    assert drift.ks_p_value(0.0, 100, 100) == 1.0
    for freedom, point in ((1, 3.841), (2, 5.991), (3, 7.815), (10, 18.307)):
        # Two rows of `freedom` + 1 equal counts, one pair apart, have this statistic.
        n = 10_000.0
        apart = np.sqrt(point * n / 4)
        old, new = np.full(freedom + 1, n), np.full(freedom + 1, n)
        old[:2] += apart, -apart
        new[:2] += -apart, apart
        assert drift.chi_square_p_value(old, new) == pytest.approx(0.05, rel=1e-2)
    assert drift.ks_distance(np.array([5, 5, 0]), np.array([0, 5, 5])) == 0.5
    assert drift.psi(np.array([50, 50]), np.array([50, 50])) == 0
    assert drift.psi(np.array([900, 100]), np.array([100, 900])) > 0.25
    assert drift.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_real_drops_usage_moved_and_subscriptions_did_not(database: Database) -> None:
    if not REAL.is_dir():
        pytest.skip(f"the real drops are not at {REAL}")
    tables = [
        real_table(database, "usage_features", "usage_agg_30d", list(TYPES)[:2]),
        real_table(database, "subscription_features", "subscriptions", list(TYPES)[2:]),
    ]
    with database.connect() as connection:
        found = {d.feature: d for d in drift.drift(connection, tables, BEFORE, NOW)}
    assert {name for name, d in found.items() if d.moved} == {
        "watch_hours_30d",
        "rebuffer_events_7d",
    }
    assert found["watch_hours_30d"].changed == 7043
    assert found["rebuffer_events_7d"].changed == 1828
    assert found["watch_hours_30d"].distance == pytest.approx(0.0430, abs=1e-4)
    assert found["rebuffer_events_7d"].distance == pytest.approx(0.0814, abs=1e-4)
    assert found["plan_stream_tv"].nulls == 1526
    still = [d for d in found.values() if d.table == "subscription_features"]
    assert {(d.changed, d.distance, d.p_value) for d in still} == {(0, 0.0, 1.0)}


def real_table(database: Database, name: str, file: str, columns: list[str]) -> FeatureTable:
    """The delivered columns as a published table; no build needed to compare them."""
    import pandas as pd

    typed = ", ".join(f"{column} {TYPES[column]}" for column in columns)
    with database.connect() as connection:
        relation = f"published.{name}_latest"
        connection.execute(f"create table {relation} (user_id text, as_of timestamptz, {typed})")
        for as_of in (BEFORE, NOW):
            rows = pd.read_csv(REAL / f"{as_of:%Y-%m-%d}" / f"{file}.csv", dtype=str)
            with connection.cursor().copy(f"copy {relation} from stdin") as copy:
                for user, *values in rows[["user_id", *columns]].itertuples(index=False):
                    kept = [None if value != value else value for value in values]
                    copy.write_row([user, as_of.isoformat(), *kept])
    described = tuple(Column(column, TYPES[column], "", "") for column in columns)
    user = EntityModel("user", "", {"user_id": "text"})
    return FeatureTable(name, user, f"model.{name}", "", "", {}, 0, False, described)


def test_the_page_holds_all_features_and_opens_offline(sample: Database, tmp_path: Path) -> None:
    file, month = report.report(date(2024, 3, 31), tmp_path)
    page = file.read_text()
    assert not re.search(r"(src|href)=|<script|@import|url\(", page)
    for drifted in month.drift:
        assert f">{drifted.feature}<" in page
    assert {table.name for table in month.tables} == set(month.rows)
    of = {d.feature: d for d in month.drift}
    assert of["users_30d"].both > 100  # devices, joined by their own key
    assert (of["last_seen_at"].kind, of["last_seen_at"].unit) == ("number", "days before as_of")
    assert 0 <= (of["last_seen_at"].mean or -1) < 90
    assert of["total_paid_exact"].kind == "number"
    assert all(len(d.bars) <= drift.BARS + 1 for d in month.drift)
    assert month.tests is not None  # of the very build that was published
    assert len(month.tests) == month.publication.tests_run
    assert page.count("<svg") == sum(bool(d.changed or d.moved) for d in month.drift)

    first, month = report.report(date(2024, 1, 31), tmp_path)
    assert month.drift == []
    assert "nothing to compare" in first.read_text()

    with pytest.raises(
        steps.StepError, match=r"no features are published as of 2024-05-31; .*03-31"
    ):
        report.report(date(2024, 5, 31), tmp_path)
