"""The oracle against itself: the order of drops, the future, what random histories hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.dbt import histories
from tests.dbt.known import (
    DAY,
    EVENT_KEYS,
    MICROSECOND,
    TIMES,
    Delivery,
    Known,
    Row,
    midnight,
    spine,
)
from tests.dbt.oracle import features

SEEDS = st.integers(0, 2**32 - 1)
CADENCES = st.sampled_from(["drops", "month", "week", "day", "hour"])


@settings(max_examples=60, deadline=None)
@given(SEEDS, CADENCES)
def test_any_order_of_different_drops_gives_the_same_values(seed, cadence):
    drawn = histories.draw(seed, users=2, cadence=cadence)
    again = histories.reorder(seed + 1, drawn.deliveries)
    assert features(drawn.deliveries, cadence) == features(again, cadence)


def without_the_future(deliveries: Sequence[Delivery], as_of: datetime) -> list[Delivery]:
    """The same deliveries had nothing happened at or after `as_of`; late rows still arrive."""
    happened = {
        (table, event)
        for table, rows in Known(deliveries).events.items()
        for event, row in rows.items()
        if row[TIMES[table]] < as_of
    }
    told = []
    for delivery in deliveries:
        files = {
            table: [row for row in rows if (table, row[EVENT_KEYS[table]]) in happened]
            for table, rows in delivery.files.items()
            if table in EVENT_KEYS
        }
        if midnight(delivery.as_of) <= as_of:
            files = {**delivery.files, **files}
        told.append(Delivery(delivery.as_of, files, delivery.lacking))
    return told


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.data())
def test_nothing_that_happens_at_or_after_as_of_changes_a_value(seed, data):
    drawn = histories.draw(seed, users=2, cadence="drops").deliveries
    as_ofs = sorted({as_of for _, as_of in spine(Known(drawn))})
    assume(as_ofs)
    as_of = data.draw(st.sampled_from(as_ofs))
    expected, found = features(drawn), features(without_the_future(drawn, as_of))
    for table, rows in expected.items():
        known = {pair: values for pair, values in rows.items() if pair[-1] <= as_of}
        assert {pair: found[table].get(pair) for pair in known} == known


def test_random_histories_hold_what_they_promise():
    """A property over histories without late rows or corrections would be green for nothing."""
    seen: Counter[str] = Counter()
    for seed in range(30):
        drawn = histories.draw(seed, users=3)
        order = [delivery.as_of for delivery in drawn.deliveries]
        seen["out of order"] += order != sorted(order)
        seen["delivered again"] += len(set(order)) < len(order)
        seen["no users file"] += any("users" not in d.files for d in drawn.deliveries)
        seen["aggregates with events"] += any(
            {"usage", "usage_agg_30d"} <= set(d.files) for d in drawn.deliveries
        )
        seen["an event file is missing"] += any(
            not set(EVENT_KEYS) <= set(d.files) for d in drawn.deliveries
        )
        stated: dict[str, Row] = {}
        as_ofs = [midnight(day) for day in order]
        for delivery in drawn.deliveries:
            as_of = midnight(delivery.as_of)
            for row in delivery.files.get("usage", ()):
                before = stated.get(row["session_id"], row)
                at = row["started_at"]
                seen["at or after as_of"] += at >= as_of
                seen["exactly at as_of"] += at in as_ofs
                seen["exactly 30 days before"] += at + 30 * DAY in as_ofs
                seen["a microsecond too early"] += at + 30 * DAY + MICROSECOND in as_ofs
                seen["late by 30 days"] += at < as_of - 30 * DAY
                seen["stated again"] += before is not row and before == row
                seen["moved in time"] += before["started_at"] != at
                seen["moved to another user"] += before["user_id"] != row["user_id"]
                stated[row["session_id"]] = row
    assert len(seen) == 13
    assert min(seen.values()) >= 5, seen
