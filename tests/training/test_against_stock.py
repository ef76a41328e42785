"""Equal to stock Feast 0.67 wherever stock is right; where it is wrong, a plain oracle decides.

If this breaks, models train on values that were not true, or not known, at their instant.

Where stock 0.67's Postgres store is wrong over versioned tables (each has a test below; see also
docs/decisions/0030-point-in-time-reads.md):

1. A retracted version: stock gives its nulls instead of what was true before.
2. What was known at K: stock cannot be asked (`filter_by_created_timestamp` compares with each
   row's own instant).
3. A date range of one view: stock gives every version of a pair, corrected and retracted ones too.
4. A date range of several views: of a pair's versions stock picks any.
5. A null bigint column with values above 2**53: stock's data frame alters them.
6. Frames with dates, ISO texts or a int8 column, and empty frames: stock fails on them.
7. A null id or instant in the frame: stock answers with nulls, or fails far from the cause.
8. Instants: stock drops the zone from the result.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streamflow_feast.offline.entity_frame import EntityFrameError
from streamflow_feast.offline.store import as_known_at

from .conftest import COLUMNS, REFS, TTL, Version, World, day, read_as_a_whole

USERS = ["a", "b", "1", "11"]
MICROSECOND = timedelta(microseconds=1)

# Few instants, and neighbours a microsecond apart, so that every edge is met: that of the day, of
# the ttl of three days, and of the 32 days that are looked up first.
instants = st.builds(
    lambda number, month, shift: day(number + 32 * month) + shift * MICROSECOND,
    st.integers(0, 8),
    st.integers(0, 2),
    st.sampled_from([0, 0, 0, -1, 1]),
)
known = st.integers(80, 84).map(day)
VALUES = {
    "double precision": st.none() | st.floats(),
    "bigint": st.none() | st.integers(-(2**63), 2**63 - 1),
    "boolean": st.none() | st.booleans(),
    "text": st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
}


@st.composite
def histories(draw: st.DrawFn, retracted: bool = False) -> dict[str, list[Version]]:
    """Versions of both views; any pair may have several, at any time."""
    found = {}
    for view, columns in COLUMNS.items():
        rows = draw(
            st.dictionaries(
                st.tuples(st.sampled_from(USERS), instants, known),
                st.tuples(*(VALUES[kind] for kind in columns.values())),
                max_size=16,
            )
        )
        found[view] = [
            Version(*key, (None,) * 3, True)
            if retracted and draw(st.integers(0, 2)) == 0
            else Version(*key, values)
            for key, values in rows.items()
        ]
    return found


frames = st.lists(
    st.tuples(st.sampled_from([*USERS, "unknown"]), instants), min_size=1, max_size=12
)


def as_frame(rows: list[tuple[str, datetime]]) -> pd.DataFrame:
    """The rows, numbered, for stock gives them back in any order."""
    users, asked = zip(*rows, strict=True)
    return pd.DataFrame(
        {
            "user_id": users,
            "event_timestamp": pd.array(asked, dtype="datetime64[us, UTC]"),
            "n": range(len(rows)),
        }
    )


def oracle(
    versions: list[Version], user_id: str, instant: datetime, known_at: datetime, ttl: timedelta
) -> tuple[Any, ...]:
    """The values at an instant as known at another, row by row and by the words of the design."""
    for as_of in sorted({v.as_of for v in versions if v.user_id == user_id}, reverse=True):
        if as_of > instant or (ttl and as_of < instant - ttl):
            continue
        seen = [
            v
            for v in versions
            if v.user_id == user_id and v.as_of == as_of and v.known_at <= known_at
        ]
        newest = max(seen, key=lambda v: v.known_at, default=None)
        if newest is not None and not newest.is_retracted:
            return newest.values
    return (None, None, None)


def values(table: pa.Table) -> list[tuple[Any, ...]]:
    """Feature values by row number, floats by their bits."""
    order = table.sort_by("n")
    columns = [order.column(ref.split(":")[1]).to_pylist() for ref in REFS]
    return [tuple(map(exact, row)) for row in zip(*columns, strict=True)]


def exact(value: Any) -> Any:
    return value.hex() if isinstance(value, float) else value


def expected(world: World, rows: list[tuple[str, datetime]], known_at: datetime) -> list[Any]:
    return [
        tuple(
            exact(value)
            for view in COLUMNS
            for value in oracle(world.versions[view], user, instant, known_at, TTL[view])
        )
        for user, instant in rows
    ]


repeatedly = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@repeatedly
@given(history=histories(), rows=frames, by_created=st.booleans(), whole=st.booleans())
def test_equals_stock_feast_on_any_history_and_frame(
    world: World, history: dict[str, list[Version]], rows: list[Any], by_created: bool, whole: bool
) -> None:
    world.replace(history)
    with read_as_a_whole(whole):
        stock, ours = (
            store.get_historical_features(
                as_frame(rows), REFS, filter_by_created_timestamp=by_created
            ).to_arrow()
            for store in (world.stock, world.ours)
        )
    assert values(ours) == values(stock)
    assert ours.column("n").to_pylist() == list(range(len(rows)))
    assert ours.column_names == stock.column_names
    utc = pa.timestamp("us", "UTC")
    for name in ours.column_names:
        of_stock = utc if name == "event_timestamp" else stock.schema.field(name).type
        assert ours.schema.field(name).type == of_stock
    if not by_created:
        assert values(ours) == expected(world, rows, day(99))


@repeatedly
@given(
    history=histories(retracted=True),
    rows=frames,
    known_at=st.none() | known,
    whole=st.booleans(),
)
@example(
    history={
        "plan_features": [
            Version("a", day(1), day(10), (1.0, 1, "x")),
            Version("a", day(2), day(10), (2.0, 2, "y")),
            Version("a", day(2), day(11), is_retracted=True),
        ],
        "activity_features": [],
    },
    rows=[("a", day(3))],
    known_at=None,
    whole=False,
)
def test_equals_the_oracle_with_retractions_at_any_known_at(
    world: World,
    history: dict[str, list[Version]],
    rows: list[Any],
    known_at: datetime | None,
    whole: bool,
) -> None:
    world.replace(history)
    with as_known_at(known_at), read_as_a_whole(whole):
        ours = world.ours.get_historical_features(as_frame(rows), REFS).to_arrow()
    assert values(ours) == expected(world, rows, known_at or day(99))


# --- where stock is wrong ----------------------------------------------------------------------


@pytest.fixture
def corrected(world: World) -> World:
    """a: day 1 stands, day 2 was corrected, day 3 was taken back."""
    world.put(
        "plan_features",
        Version("a", day(1), day(10), (1.0, 1, "x")),
        Version("a", day(2), day(10), (2.0, 2, "x")),
        Version("a", day(2), day(11), (2.5, 2**53 + 1, "x")),
        Version("a", day(3), day(10), (3.0, 3, "x")),
        Version("a", day(3), day(11), is_retracted=True),
    )
    world.put("activity_features", Version("a", day(1), day(11), (7.0, 7, True)))
    return world


def fees(store: Any, rows: list[Any]) -> list[float | None]:
    table = store.get_historical_features(as_frame(rows), ["plan_features:fee"]).to_arrow()
    return table.column("fee").to_pylist()


def test_stock_gives_the_nulls_of_a_retracted_version(corrected: World) -> None:
    assert fees(corrected.ours, [("a", day(4))]) == [2.5]
    assert fees(corrected.stock, [("a", day(4))]) == [None]


def test_stock_cannot_be_asked_for_what_was_known(corrected: World) -> None:
    with as_known_at(day(10)):
        assert fees(corrected.ours, [("a", day(2)), ("a", day(4))]) == [2.0, 3.0]
        assert fees(corrected.stock, [("a", day(2)), ("a", day(4))]) == [2.5, None]


def test_stock_gives_every_version_in_a_date_range(corrected: World) -> None:
    def ranged(store: Any, *more: str) -> list[float | None]:
        job = store.get_historical_features(
            features=["plan_features:fee", *more], start_date=day(0), end_date=day(9)
        )
        return job.to_arrow().sort_by("event_timestamp").column("fee").to_pylist()

    assert ranged(corrected.ours) == [1.0, 2.5]
    assert len(ranged(corrected.stock)) == 5
    assert ranged(corrected.ours, "activity_features:skips") == [1.0, 2.5]
    assert len(ranged(corrected.stock, "activity_features:skips")) == 3  # the retracted day too


def test_stock_alters_large_integers_beside_a_null(corrected: World) -> None:
    asked = as_frame([("a", day(2)), ("unknown", day(2))])
    ours, stock = (
        store.get_historical_features(asked, ["plan_features:months"]).to_df().sort_values("n")
        for store in (corrected.ours, corrected.stock)
    )
    assert int(ours["months"].iloc[0]) == 2**53 + 1
    assert int(stock["months"].iloc[0]) == 2**53


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda f: f.assign(event_timestamp=[date(2024, 1, 3)]), id="date"),
        pytest.param(lambda f: f.assign(event_timestamp=["2024-01-03"]), id="text"),
        pytest.param(lambda f: f.assign(n=np.array([0], dtype="int8")), id="int8"),
        pytest.param(lambda f: f.head(0), id="empty"),
    ],
)
def test_stock_fails_on_frames_that_have_one_meaning(corrected: World, change: Any) -> None:
    asked = change(as_frame([("a", day(2))]))
    ours = corrected.ours.get_historical_features(asked, ["plan_features:fee"]).to_arrow()
    assert ours.column("fee").to_pylist() == [2.5] * len(asked)
    with pytest.raises(Exception):  # noqa: B017, PT011 - a different one for each
        corrected.stock.get_historical_features(asked, ["plan_features:fee"]).to_arrow()


def test_stock_answers_rows_without_an_id(corrected: World) -> None:
    asked = as_frame([("a", day(2)), ("b", day(2))]).assign(user_id=["a", None])
    stock = corrected.stock.get_historical_features(asked, ["plan_features:fee"]).to_arrow()
    assert None in stock.column("fee").to_pylist()
    with pytest.raises(EntityFrameError, match="user_id is null"):
        corrected.ours.get_historical_features(asked, ["plan_features:fee"])


def test_stock_drops_the_zone(corrected: World) -> None:
    ours, stock = (
        store.get_historical_features(as_frame([("a", day(2))]), ["plan_features:fee"]).to_arrow()
        for store in (corrected.ours, corrected.stock)
    )
    assert ours.column("event_timestamp").to_pylist() == [day(2)]
    assert stock.column("event_timestamp").to_pylist() == [day(2).replace(tzinfo=None)]
