"""Random histories, loaded and built in random orders and splits, against the oracle.

If this fails, a training set holds values that nobody could have known, or a late or corrected row
never arrives, or it arrives only for those who loaded their drops in the right order.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from data.database import Database
from tests.dbt import builds, histories
from tests.dbt.known import DAY, Delivery, Pair, Values, midnight
from tests.dbt.oracle import features

# In one round, each of two or three users; fewer where the calendar is fine.
HISTORIES = {"drops": 50, "month": 50, "week": 40, "day": 20, "hour": 3}
BEHIND = {  # the files behind a table, beside users
    "user_features": (),
    "subscription_features": ("subscriptions",),
    "usage_features": ("usage", "usage_agg_30d"),
    "payment_features": ("payments", "payments_agg_90d"),
    "support_features": ("support", "support_agg_90d"),
    "device_features": ("usage",),
    "user_device_features": ("usage",),
    "churn_labels": ("labels",),
}
Tables = dict[str, dict[Pair, Values]]


@pytest.mark.parametrize("cadence", HISTORIES)
@settings(
    max_examples=1,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # a build takes seconds; the failing history is shown alone instead
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**32 - 1).filter(bool))  # 0 would be the first and only one drawn
def test_dbt_equals_the_oracle_at_every_known_at(cadence: str, seed: int, shared: Database):
    drawn = histories.draw(seed, HISTORIES[cadence], cadence)
    note(f"the round: histories.draw({seed}, {HISTORIES[cadence]}, {cadence!r})")
    final = follow(drawn.deliveries, drawn.builds, cadence)

    # The drops in another order, built at other times: the same in the end.
    again = histories.reorder(seed + 1, drawn.deliveries)
    assert follow(again, (len(again),), cadence) == final

    # A drop full of what happened at or after every as_of: not a value moves.
    builds.deliver(tomorrow(drawn.deliveries))
    publish(cadence)
    newest = max(as_of for _, as_of in final["user_features"])
    for table in builds.FEATURES:
        versions = builds.published(table)
        later = {pair for pair in versions if pair[-1] > newest}
        moved = [pair for pair in versions.keys() - later if len(versions[pair]) > 1]
        assert not moved, f"{table} has new versions, from rows at or after as_of: {moved[:5]}"
        assert later, f"{table} has no row for the new drop"


def follow(deliveries: Sequence[Delivery], stops: Sequence[int], cadence: str) -> Tables:
    """Load into an empty database, build and compare at every stop; the final values."""
    builds.empty()
    expected: list[tuple[Any, Tables, Sequence[Delivery]]] = []
    for number, delivery in enumerate(deliveries, 1):
        builds.deliver(delivery, number)
        (load_id,) = builds.rows("select max(load_id) from raw.loads")[0]
        assert builds.effective_rows(load_id) == builds.expected_rows(deliveries[:number]), (
            f"the raw rows in effect after delivery {number} are not what the drops say"
        )
        if number in stops:
            seen = deliveries[:number]
            known_at = publish(cadence)
            expected.append((known_at, features(seen, cadence), seen))
            compare(expected[-1:])
    compare(expected)
    assert_every_version_differs()
    return expected[-1][1]


def publish(cadence: str) -> Any:
    """Build; known_at of the publication."""
    outcome = builds.build(cadence=cadence)
    assert outcome.success, outcome.output[-4000:]
    return builds.newest_publication()


def compare(expected: Sequence[tuple[Any, Tables, Sequence[Delivery]]]) -> None:
    """Every value of every pair as known at each of the publications."""
    for table in builds.FEATURES:
        versions = builds.published(table)
        for known_at, tables, seen in expected:
            found = builds.as_known_at(versions, known_at)
            if found != tables[table]:
                pytest.fail(difference(table, known_at, tables[table], found, seen), pytrace=False)


def difference(
    table: str, known_at: Any, expected: dict[Pair, Values], found: dict[Pair, Values], seen: Any
) -> str:
    """The differing pair with the fewest raw rows behind it, and those in order of arrival."""
    files = {"users", *BEHIND[table]}

    def told(pair: Pair) -> list[str]:
        history = pair[0][:4]
        return [
            f"  {number}. drop {delivery.as_of} {file}: "
            + (", ".join(f"{c}={histories.text(v, _plain)}" for c, v in row.items()))
            for number, delivery in enumerate(seen, 1)
            for file, rows in delivery.files.items()
            if file in files
            for row in rows
            if row["user_id"].startswith(history)
        ]

    pairs = [p for p in expected.keys() | found.keys() if expected.get(p) != found.get(p)]
    pair = min(pairs, key=lambda pair: (len(told(pair)), pair))
    should, does = expected.get(pair), found.get(pair)
    if should is None or does is None:
        what = ["the pair should " + ("not exist" if should is None else "exist")]
    else:
        what = [f"{c}: expected {v!r}, got {does[c]!r}" for c, v in should.items() if v != does[c]]
    drops = [f"  {n}. drop {d.as_of}: {', '.join(d.files)}" for n, d in enumerate(seen, 1)]
    where = f"{table}, {pair[:-1]}, as_of {pair[-1]}, known at {known_at}"
    others = f"({len(pairs)} pairs of {table} differ; this one has the fewest rows)"
    return "\n".join([where, *what, others, "deliveries:", *drops, "rows:", *told(pair)])


class _Plain:
    """In place of Random, so that `text` writes instants in UTC."""

    choice = staticmethod(lambda values: values[0])
    random = staticmethod(lambda: 1.0)


_plain: Any = _Plain()


def assert_every_version_differs() -> None:
    """A version is appended only where something differs from the one before."""
    for table in builds.FEATURES:
        for pair, told in builds.published(table).items():
            values = [None, *(values for _, values in told)]
            for before, after in itertools.pairwise(values):
                assert before != after, f"{table} {pair}: two versions with the same values"


def tomorrow(deliveries: Sequence[Delivery]) -> Delivery:
    """A drop after all the others, whose every event happened at or after their as_ofs."""
    last = max(delivery.as_of for delivery in deliveries)
    users = {row["user_id"]: row for d in deliveries for row in d.files.get("users", ())}
    files: dict[str, list[Any]] = {
        "users": list(users.values()),
        "labels": [{"user_id": user, "churn_label": True} for user in users],
    }
    for table, time in (
        ("usage", "started_at"),
        ("payments", "attempted_at"),
        ("support", "opened_at"),
    ):
        events = [row for d in deliveries for row in d.files.get(table, ())][:500]
        key = histories.COLUMNS[table][0]
        files[table] = []
        for number, row in enumerate(events):
            at = midnight(last) + number * timedelta(microseconds=1)
            moved = {**row, key: f"tomorrow-{number}", time: at}
            if table == "support":
                moved["resolved_at"] = None
            files[table].append(moved)
    return Delivery(last + 40 * DAY, files)
