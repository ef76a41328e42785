"""What the page gets beside the vector: past values, distributions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from data.database import Database
from serving.routes.page_data import _grid, _plot
from tests.serving.hand_made import (
    AS_OF,
    KNOWN_AT,
)

Ask = Callable[..., list[httpx.Response]]


def test_the_past_is_what_was_published(ask: Ask) -> None:
    known, unknown = ask(("GET", "/features/7590-VHVEG/history"), ("GET", "/features/no/history"))
    past = known.json()["views"]
    assert len(past["plan_features"]) == 12
    newest = past["plan_features"][0]
    assert newest["as_of"] == AS_OF.isoformat().replace("+00:00", "Z")
    assert newest["known_at"] == KNOWN_AT.isoformat().replace("+00:00", "Z")
    assert [p["features"]["monthly_fee"] for p in past["plan_features"]][:3] == [
        29.85,
        28.85,
        27.85,
    ]
    assert past["watch_features"] == []  # nothing published for it
    assert unknown.json()["views"]["plan_features"] == []


def test_a_distribution_counts_every_user(ask: Ask, online: Database) -> None:
    [answer] = ask(("GET", "/distributions"))
    features = answer.json()["features"]
    with online.connect() as connection:
        users, nulls = connection.execute(
            "select count(*), count(*) - count(skips_7d) from online.watch_features"
        ).fetchone()
    skips = features["skips_7d"]
    assert (skips["users"], skips["nulls"]) == (users, nulls)
    assert sum(skips["counts"]) + skips["below"] + skips["above"] == users - nulls
    billing = features["paperless_billing"]
    assert dict(zip(billing["labels"], billing["counts"], strict=True)) == {
        "false": 101,
        "true": 101,
    }
    assert not answer.json()["sampled"]


def test_of_many_users_a_part_is_counted(
    ask: Ask, online: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.routes.page_data.COUNTED", 60)
    [answer] = ask(("GET", "/distributions"))
    assert answer.json()["sampled"]
    skips = answer.json()["features"]["skips_7d"]
    assert 20 < skips["users"] < 120
    counted = sum(skips["counts"]) + skips["below"] + skips["above"] + skips["nulls"]
    assert counted == skips["users"]


@pytest.mark.parametrize(
    ("kind", "values", "plot"),
    [
        ("int64", [2, 2, 3, 5], {"low": 1.5, "high": 5.5, "counts": [2, 1, 0, 1]}),
        ("int64", [7, 7], {"low": 6.5, "high": 7.5, "counts": [2]}),
        ("double", [0.25, 0.25], {"low": -0.25, "high": 0.75, "counts": [2]}),
    ],
)
def test_a_plot_of_few_values(kind: str, values: list[float], plot: dict[str, Any]) -> None:
    grid = _grid(kind, min(values), max(values))
    assert grid is not None
    width = (grid.high - grid.low) / grid.steps
    fine = [0] * grid.steps
    for value in values:
        fine[min(int((value - grid.low) / width), grid.steps - 1)] += 1
    assert _plot(fine, grid, len(values)) == {**plot, "below": 0, "above": 0}


def test_a_plot_cuts_off_a_long_tail_and_loses_nobody() -> None:
    grid = _grid("double", 0.0, 400.0)
    assert grid is not None
    assert (grid.low, grid.high, grid.steps) == (0.0, 400.0, 400)
    kept = _plot([990, *[0] * 398, 10], grid, 1000)
    assert (kept["below"], kept["above"]) == (0, 0)
    assert len(kept["counts"]) <= 40
    cut = _plot([996, *[0] * 398, 4], grid, 1000)
    assert (cut["high"], cut["above"], cut["counts"]) == (1.0, 4, [996])
