"""Whatever the order in which drops and their corrections arrive, the rows in effect are the same.

If this fails, features depend on when a file happened to be loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from data.database import Database
from data.load.load import load
from tests.data.drops import HEADERS, Rows, effective, write_drop

DAYS = ["2024-01-31", "2024-02-29", "2024-03-31"]
EVENTS = st.dictionaries(st.sampled_from("stuv"), st.integers(0, 2), max_size=4)
STATE = st.dictionaries(st.sampled_from("ab"), st.booleans(), max_size=2)
# One delivery: which drop, and what it says about payments (id -> amount) and labels.
DELIVERIES = st.lists(
    st.tuples(st.sampled_from(DAYS), st.none() | EVENTS, st.none() | STATE), max_size=6
)


def expected(deliveries: list[tuple[str, Any, Any]]) -> tuple[Rows, Rows]:
    """(payment id, amount, drop) and (user, label, drop) in effect, by the rules in plain words."""
    payments, labels = {}, {}
    for day, said, told in deliveries:  # a file replaces its predecessor
        payments[day] = payments.get(day, {}) if said is None else said
        labels[day] = labels.get(day, {}) if told is None else told
    newest = {id: (id, amount, day) for day in DAYS for id, amount in payments.get(day, {}).items()}
    each = [(user, label, day) for day in DAYS for user, label in labels.get(day, {}).items()]
    return sorted(newest.values()), sorted(each)


def found(database: Database, horizon: int | None = None) -> tuple[Rows, Rows]:
    payments = effective(database, "payments", horizon)
    return (
        sorted((row[0], int(row[3]), row[-1]) for row in payments),
        sorted(effective(database, "labels", horizon)),
    )


def standing_twice(database: Database) -> int:
    """How many statements a drop makes more than once; readers of `replaced_by` would see both."""
    with database.connect() as connection:
        row = connection.execute(
            "select count(*) - count(distinct (payment_id, as_of)) from raw.payments"
            " where replaced_by is null"
        ).fetchone()
    return row[0] if row else 0


def start_over(database: Database, folder: Path) -> None:
    with database.connect() as connection:
        tables = sql.SQL(", ").join(sql.Identifier("raw", name) for name in [*HEADERS, "loads"])
        connection.execute(sql.SQL("truncate {} restart identity").format(tables))
    everyone = ["a,2023-01-01,,,,", "b,2023-01-01,,,,"]
    load(write_drop(folder, "2023-12-31", users=everyone), database)


def deliver(database: Database, folder: Path, delivery: tuple[str, Any, Any]) -> int | None:
    day, said, told = delivery
    files: dict[str, list[str]] = {}
    if said is not None:
        files["payments"] = [
            f"{id},a,2024-01-01T00:00Z,{amount},failed" for id, amount in said.items()
        ]
    if told is not None:
        files["labels"] = [f"{user},{label}" for user, label in told.items()]
    return load(write_drop(folder, day, **files), database).load_id if files else None


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(DELIVERIES, st.randoms(use_true_random=False))
def test_any_order_of_arrival_gives_the_same_rows_in_effect(
    database: Database, tmp_path: Path, deliveries: list[tuple[str, Any, Any]], random: Any
) -> None:
    start_over(database, tmp_path)
    seen: dict[int, tuple[Rows, Rows]] = {}
    for number, delivery in enumerate(deliveries, 1):
        load_id = deliver(database, tmp_path, delivery)
        assert found(database) == expected(deliveries[:number])
        assert standing_twice(database) == 0
        if load_id is not None:
            seen[load_id] = found(database)
    for horizon, rows in seen.items():
        assert found(database, horizon) == rows, "a later load changed what an earlier one saw"

    # Another order, in which only deliveries of the same drop keep theirs.
    days = [day for day, _, _ in deliveries]
    random.shuffle(days)
    waiting = {day: [one for one in deliveries if one[0] == day] for day in DAYS}
    start_over(database, tmp_path)
    for day in days:
        deliver(database, tmp_path, waiting[day].pop(0))
    assert found(database) == expected(deliveries)
