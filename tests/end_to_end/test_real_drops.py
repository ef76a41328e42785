"""The real StreamFlow drops, held against figures that were counted in the files."""

from __future__ import annotations

import csv
import hashlib
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore

from data.database import Database
from orchestration import steps

DROPS = steps.ROOT.parent / "shared" / "streamflow"
USER = "7590-VHVEG"

pytestmark = pytest.mark.skipif(
    not DROPS.is_dir(), reason=f"the real drops are not at {DROPS}: they are never committed"
)


def training_set(as_of: str, folder: Path, name: str) -> tuple[str, list[dict[str, str]]]:
    """A snapshot's training set: the file's sha256 and its rows."""
    steps.training_set([as_of], out=folder, name=name)
    file = folder / f"{name}.csv"
    with file.open(newline="") as lines:
        return hashlib.sha256(file.read_bytes()).hexdigest(), list(csv.DictReader(lines))


def churned(rows: list[dict[str, str]]) -> int:
    return sum(row["churn_label"] in ("True", "true") for row in rows)


def test_two_months_of_the_real_drops(database: Database, tmp_path: Path, serving, get) -> None:
    steps.pipeline([DROPS / "2024-01-31"])
    before, _ = training_set("2024-01-31", tmp_path, "before")

    steps.pipeline([DROPS / "2024-02-29"])
    after, rows = training_set("2024-01-31", tmp_path, "after")

    assert before == after, "February changed January's training set"
    assert len(rows) == 7043
    assert churned(rows) == 1869
    assert sum(row["plan_stream_tv"] == "" for row in rows) == 1526
    assert sum(row["plan_stream_movies"] == "" for row in rows) == 1526

    _, february = training_set("2024-02-29", tmp_path, "february")
    assert churned(february) == 1701

    store = FeatureStore(repo_path=str(steps.FEATURE_REPO))
    with database.connect() as connection:
        entity = connection.execute(
            "select user_id, as_of from published.subscription_features_latest where user_id = %s"
            " order by as_of desc limit 1",
            [USER],
        ).fetchone()
    frame = pd.DataFrame([entity], columns=["user_id", "event_timestamp"])
    offline = store.get_historical_features(frame, store.get_feature_service("all_features"))
    (row,) = offline.to_df().to_dict("records")
    assert row["monthly_fee"] == 29.85  # not the 29.850000381469727 of a Float32

    with serving("uvicorn serving.main:app --port {port}") as address:
        answer = get(f"{address}/features/{USER}")
    assert answer["features"]["monthly_fee"] == 29.85
    assert answer["as_of"].startswith("2024-02-29")
    for name, value in answer["features"].items():
        assert value == in_json(row[name]), name


def in_json(value: Any) -> Any:
    """A value of a frame as the API has it: a date and a decimal as texts, null for none."""
    if isinstance(value, list | np.ndarray):
        return list(value)
    if pd.isna(value):
        return None
    return str(value) if isinstance(value, date | Decimal) else value
