"""Versioned views beside tables of another kind, and ranges of instants without an entity frame."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest
from feast import FeatureView, Field
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.types import Int64, String

from streamflow_feast.offline.effective_sources import MixedSourcesError
from streamflow_feast.offline.store import as_known_at
from streamflow_feast.offline.time_range import DateRangeError

from .conftest import Version, World, day

FEE = ["plan_features:fee"]
BOTH = [*FEE, "plain_features:score"]
FRAME = pd.DataFrame({"user_id": ["a", "b"], "event_timestamp": [day(8), day(8)]})


@pytest.fixture
def mixed(world: World) -> Iterator[World]:
    """User a's fee was 1 and is 2 since day 6; b's was taken back then. plain_features: a table."""
    world.put(
        "plan_features",
        Version("a", day(1), day(5), (1.0, 1, "x")),
        Version("b", day(0), day(5), (5.0, 1, "x")),
        Version("b", day(1), day(5), (6.0, 1, "x")),
    )
    world.put(
        "plan_features",
        Version("a", day(1), day(6), (2.0, 1, "x")),
        Version("b", day(1), day(6), is_retracted=True),
    )
    world.connection.execute(
        "create table plain (user_id text, at timestamptz, written timestamp, score bigint)"
    )
    for user, written, score in (("a", 5, 10), ("a", 6, 20), ("b", 6, 30)):
        world.connection.execute(
            "insert into plain values (%s, %s, %s, %s)",
            [user, day(1), day(written).replace(tzinfo=None), score],
        )
    _apply(world, "written")
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        yield world


def _apply(world: World, created: str) -> None:
    source = PostgreSQLSource(
        name="plain", table="plain", timestamp_field="at", created_timestamp_column=created
    )
    schema = [Field(name="user_id", dtype=String), Field(name="score", dtype=Int64)]
    user = world.ours.get_entity("user")
    world.ours.apply(
        FeatureView(name="plain_features", entities=[user], schema=schema, source=source)
    )


def asked(world: World, known_at: datetime | None, refs: list[str] = BOTH) -> list[tuple]:
    with as_known_at(known_at):
        job = world.ours.get_historical_features(FRAME, refs)
    table = job.to_arrow().sort_by("user_id")
    return list(zip(*(table.column(ref.split(":")[1]).to_pylist() for ref in refs), strict=True))


@pytest.mark.parametrize("known_at", [day(4), day(5), day(5.5), day(6), None])
def test_beside_another_source_a_versioned_view_answers_as_known_then(
    mixed: World, known_at: datetime | None
) -> None:
    """Otherwise a model is trained on what was found out after K: a look into the future."""
    alone = asked(mixed, known_at, FEE)
    assert [row[:1] for row in asked(mixed, known_at)] == alone
    assert [score for _, score in asked(mixed, known_at)] == (
        [None, None] if known_at == day(4)
        else [10, None] if known_at and known_at < day(6) else [20, 30]
    )  # fmt: skip
    assert alone == (
        [(None,), (None,)] if known_at == day(4)
        else [(1.0,), (6.0,)] if known_at and known_at < day(6) else [(2.0,), (5.0,)]
    )  # fmt: skip


def test_a_source_that_cannot_say_what_was_known_is_named(mixed: World) -> None:
    _apply(mixed, "")
    with pytest.warns(UserWarning, match="source of plain_features does not say when a row was"):
        rows = asked(mixed, day(5))
    assert {fee for fee, _ in rows} == {1.0, 6.0}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        asked(mixed, None)


def test_what_cannot_be_told_of_both_together_is_refused(mixed: World) -> None:
    with pytest.raises(MixedSourcesError, match=r"plan_features \(versioned\) and plain_features"):
        mixed.ours.get_historical_features(FRAME, BOTH, filter_by_created_timestamp=True)


def test_a_range_of_both_is_as_known_then(mixed: World) -> None:
    with as_known_at(day(5)):
        job = mixed.ours.get_historical_features(None, BOTH, end_date=day(9))
    fees = {fee for fee in job.to_arrow().column("fee").to_pylist() if fee is not None}
    assert fees <= {1.0, 5.0, 6.0}
    assert 1.0 in fees


# --- a range of instants -----------------------------------------------------------------------


@pytest.fixture
def days(world: World) -> World:
    """User a has fee n from day n on, for ten days of January 2024, and one of long ago."""
    long_ago = Version("a", day(-9000), day(20), (-1.0, 0, "x"))
    rows = (Version("a", day(d), day(20), (float(d), d, "x")) for d in range(10))
    world.put("plan_features", long_ago, *rows)
    activity = (Version("a", day(d), day(20), (float(d), d, True)) for d in range(10))
    world.put("activity_features", *activity)
    return world


def ranged(world: World, refs: list[str] = FEE, **ends: object) -> list[float]:
    job = world.ours.get_historical_features(None, refs, **ends)  # type: ignore[arg-type]
    return job.to_arrow().column(refs[0].split(":")[1]).to_pylist()


def test_without_dates_it_is_everything_that_is_published(days: World) -> None:
    """Nothing came back, without a word, for data that is more than a month old."""
    everything = [-1.0, *map(float, range(10))]
    assert ranged(days) == everything
    assert ranged(days, end_date=day(3)) == everything[:5]
    assert ranged(days, start_date=day(8)) == [8.0, 9.0]
    # The ttl of three days is how long a value counts, not how far a range reaches.
    assert ranged(days, ["activity_features:hours"]) == everything[1:]
    assert ranged(days, ["plan_features:fee", "activity_features:hours"]) == everything


@pytest.mark.parametrize("zone", ["Pacific/Pago_Pago", "Pacific/Kiritimati"])
def test_rows_of_today_are_part_of_everything_wherever_the_machine_stands(
    days: World, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(timezone.utc)
    days.put("plan_features", Version("a", now - timedelta(minutes=1), now, (99.0, 1, "x")))
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert ranged(days)[-1] == 99.0
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2024-01-03", "2024-01-04"),
        ("2024-01-03T00:00:00Z", "2024-01-04T01:00:00+01:00"),
        (date(2024, 1, 3), date(2024, 1, 4)),
        (datetime(2024, 1, 3), datetime(2024, 1, 4)),
        (pd.Timestamp("2024-01-03"), pd.Timestamp("2024-01-04", tz="UTC")),
        (np.datetime64("2024-01-03"), np.datetime64("2024-01-04T00:00:00.000000001")),
    ],
)
def test_dates_and_texts_are_taken(days: World, start: object, end: object) -> None:
    assert ranged(days, start_date=start, end_date=end) == [2.0, 3.0]


@pytest.mark.parametrize(
    ("ends", "says"),
    [
        ({"start_date": day(5), "end_date": day(4)}, "end_date .*01-05.* lies before start_date"),
        ({"start_date": "last week"}, "start_date 'last week' cannot be used"),
        ({"end_date": "2024-02-30"}, "end_date '2024-02-30' cannot be used"),
        ({"start_date": 20240101}, r"start_date 20240101 cannot be used \(it is a int\)"),
        ({"end_date": pd.NaT}, "end_date NaT cannot be used"),
    ],
)
def test_ends_that_are_none_or_reversed_are_refused(
    days: World, ends: dict[str, object], says: str
) -> None:
    with pytest.raises(DateRangeError, match=says):
        ranged(days, **ends)
