"""A kill, a restart or a second run at any point loses nothing and mixes nothing.

Where a run is to be stopped, another connection holds a lock on a table of that step: the run
waits there until it is killed.
"""

from __future__ import annotations

import time
from contextlib import contextmanager

import psycopg
import pytest

from tests.feast.offline import FEB, JAN, VIEWS, Offline, day

USERS = [f"user-{number:03d}" for number in range(50)]
ORDER = ["payment_features", "usage_features", "user_features"]


def state(offline: Offline) -> dict:
    return {name: offline.online(name) for name in VIEWS}


def expected(offline: Offline) -> dict:
    return {name: offline.expected(name) for name in VIEWS}


@contextmanager
def locked(offline: Offline, table: str, mode: str = "access exclusive"):
    with offline.connect() as connection:
        connection.execute(f"lock table {table} in {mode} mode")
        yield
        connection.rollback()


def wait_until(offline: Offline, condition: str, seconds: float = 20) -> None:
    """Until a backend of the materialization is in the state that `condition` describes."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with offline.connect() as connection:
            if connection.execute(
                "select 1 from pg_stat_activity where application_name = 'feast materialize'"
                f" and datname = current_database() and {condition}"
            ).fetchone():
                return
        time.sleep(0.02)
    with offline.connect() as connection:
        sessions = connection.execute(
            "select application_name, state, wait_event_type, wait_event, query"
            " from pg_stat_activity where datname = current_database()"
        ).fetchall()
    pytest.fail(f"no materialization came to {condition}: {sessions}")


def wait_gone(offline: Offline, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with offline.connect() as connection:
            if not connection.execute(
                "select 1 from pg_stat_activity where application_name = 'feast materialize'"
                " and datname = current_database()"
            ).fetchone():
                return
        time.sleep(0.05)
    pytest.fail("the server kept the killed run's session")


@pytest.fixture
def second_month(offline, store, now) -> Offline:
    """January is online, February is published."""
    offline.publish(offline.month(JAN, USERS))
    store.materialize_incremental(now)
    offline.publish(offline.month(FEB, USERS[5:], shift=2))
    return offline


# Before, between and after the statements of a run: the lock, each view, the ledger, Feast's
# registry (written after the commit).
@pytest.mark.parametrize(
    ("table", "committed"),
    [
        ("ledger.publications", False),
        *((f"online.{name}", False) for name in ORDER),
        ("ledger.materializations", False),
        ("online.registry", True),
    ],
)
def test_a_kill_9_leaves_all_or_nothing_and_the_same_command_repairs_it(
    second_month, store, now, start_run, table, committed
):
    before, after = state(second_month), expected(second_month)
    assert before != after
    if table == "online.registry":
        # Readable, as Feast reads it before: only the write is held up.
        with locked(second_month, table, "exclusive"):
            run = start_run()
            deadline = time.monotonic() + 20
            while state(second_month) != after and time.monotonic() < deadline:
                time.sleep(0.05)
            run.kill()
    else:
        mode = "exclusive" if table == "ledger.materializations" else "access exclusive"
        with locked(second_month, table, mode):
            run = start_run()
            wait_until(second_month, "wait_event_type = 'Lock'")
            run.kill()
            wait_gone(second_month)
    assert state(second_month) == (after if committed else before)
    store.materialize_incremental(now)
    assert state(second_month) == after


def test_a_restart_of_postgres_in_the_middle_changes_nothing_and_is_repaired(
    second_month, store, now, start_run, server
):
    before, after = state(second_month), expected(second_month)
    holder = second_month.connect()
    holder.execute("lock table online.usage_features")
    run = start_run()
    wait_until(second_month, "wait_event_type = 'Lock'")
    server.stop("fast")  # the tests' server does not flush, so "immediate" would lose commits
    server.start()
    holder.close()
    code, output = run.finish()
    assert code != 0
    assert "The connection to the database was lost; nothing was changed online." in output
    assert state(second_month) == before
    # This process was connected too: its connections come back by themselves.
    store.materialize_incremental(now)
    assert state(second_month) == after


def test_two_materializations_at_once_run_one_after_the_other(second_month, start_run):
    after = expected(second_month)
    with locked(second_month, "online.usage_features"):
        first = start_run()
        wait_until(second_month, "wait_event_type = 'Lock' and wait_event = 'relation'")
        second = start_run()
        wait_until(second_month, "wait_event_type = 'Lock' and wait_event = 'advisory'")
    (code, output), (second_code, second_output) = first.finish(), second.finish()
    assert (code, second_code) == (0, 0), output + second_output
    assert "Another materialization or apply is running; waiting for it." in second_output
    assert state(second_month) == after
    changed = [row["changed"] for row in second_month.ledger("usage_features")]
    assert changed == [50, 45, 0]


def test_features_are_read_while_they_are_materialized(second_month, store, now, start_run):
    features = ["usage_features:watch_hours_30d", "user_features:user_gender"]
    rows = [{"user_id": user} for user in USERS[10:12]]
    before = store.get_online_features(features, rows).to_dict()
    # Held up in its last statement, with every row written and nothing committed.
    with locked(second_month, "ledger.materializations", "exclusive"):
        run = start_run()
        wait_until(second_month, "wait_event_type = 'Lock'")
        assert store.get_online_features(features, rows).to_dict() == before
        run.kill()
        # Stock Feast refuses reads from here on until the next run ends.
        assert store.get_online_features(features, rows).to_dict() == before
        wait_gone(second_month)
    store.materialize_incremental(now)
    assert store.get_online_features(features, rows).to_dict() != before


def test_a_push_during_a_run_is_neither_lost_nor_overwritten(second_month, store, start_run):
    import pandas as pd

    with locked(second_month, "ledger.materializations", "exclusive"):
        run = start_run()
        wait_until(second_month, "wait_event_type = 'Lock'")
        pushed = pd.DataFrame(
            {
                "user_id": ["somebody-else"],
                "as_of": [day("2024-06-01")],
                "known_at": [day("2025-06-01")],
                "watch_hours_30d": [1.5],
                "skips_7d": [2],
            }
        )
        store.write_to_online_store("usage_features", pushed)
    code, output = run.finish()
    assert code == 0, output
    assert second_month.online("usage_features")["somebody-else"][2:] == (1.5, 2)


def test_a_lock_held_by_nobody_is_not_waited_for(second_month, store, now):
    """The advisory lock ends with its transaction, also when that fails."""
    from streamflow_feast.online.tables import LOCK

    connection = second_month.connect()
    connection.execute(LOCK)
    with pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("select 1/0")
    store.materialize_incremental(now)
    assert state(second_month) == expected(second_month)
