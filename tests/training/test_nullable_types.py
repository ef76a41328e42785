"""Integers stay integers: in pandas on request, in training_df.csv always."""

from __future__ import annotations

import csv
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest

from streamflow_feast.training.training_set import write_training_set

from .conftest import OURS, Version, World, day, feast_store

REFS = [
    f"plan_features:{name}" for name in ("fee", "months", "net")
] + ["activity_features:skips", "activity_features:is_new"]  # fmt: skip
BIG = 2**53 + 1
FRAME = pd.DataFrame({"user_id": ["a", "b", "c"], "event_timestamp": [day(2)] * 3, "label": 1})


@pytest.fixture
def world(world: World) -> World:
    world.put("plan_features", Version("a", day(1), day(5), (1.5, BIG, "x")))
    world.put("plan_features", Version("b", day(1), day(5), (None, 1, None)))
    world.put("activity_features", Version("a", day(1), day(5), (1.0, 3, True)))
    return world


def test_nullable_types_on_request(world: World) -> None:
    frame = world.ours.get_historical_features(FRAME, REFS).to_df(nullable=True)
    assert {name: str(frame[name].dtype) for name in frame.columns[2:]} == {
        "label": "Int64",
        "fee": "float64",
        "months": "Int64",
        "net": "string",
        "skips": "Int64",
        "is_new": "boolean",
    }
    assert frame["months"].tolist() == [BIG, 1, pd.NA]
    assert frame["skips"].tolist() == [3, pd.NA, pd.NA]
    assert frame["is_new"].tolist() == [True, pd.NA, pd.NA]
    assert frame["skips"].to_csv(index=False).split() == ["skips", "3", '""', '""']


def test_the_default_is_feasts_and_a_setting_changes_it(world: World, tmp_path: Path) -> None:
    job = world.ours.get_historical_features(FRAME, REFS)
    assert str(job.to_df()["skips"].dtype) == "float64"
    assert str(job.to_df()["is_new"].dtype) == "object"
    with_setting = feast_store(tmp_path, {**OURS, "nullable_dtypes": True})
    job = with_setting.get_historical_features(FRAME, REFS)
    assert str(job.to_df()["skips"].dtype) == "Int64"
    assert str(job.to_df(nullable=False)["skips"].dtype) == "float64"


def test_integers_are_integers_in_the_csv_of_a_training_set(
    trained: datetime, tmp_path: Path
) -> None:
    """skips_7d is unknown for c: pandas would have made 7 and 0 of the others 7.0 and 0.0."""
    made = write_training_set("2024-01-31", service="all_features", out=tmp_path)
    integers = [f.name for f in made.table.schema if str(f.type) == "int64"]
    with (tmp_path / "training_df.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    unknown = [name for name in integers if made.table.column(name).null_count]
    assert "skips_7d" in unknown
    for name in integers:
        values = [row[name] for row in rows]
        assert all(value == "" or value.lstrip("-").isdigit() for value in values), name
    assert {row["user_id"]: row["skips_7d"] for row in rows} == {"a": "7", "b": "0", "c": ""}
