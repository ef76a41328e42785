"""Stock Feast's Redis store, filled by this project's engine.

Needs redis-server (Debian: apt-get install redis-server) and the Python package redis (the extra
`redis`); without them these tests are skipped, and say so.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import time
import uuid
from datetime import timedelta

import pandas as pd
import pytest
from feast import FeatureStore

from streamflow_feast.dbt.feast_objects import apply_definitions
from streamflow_feast.dbt.manifest import read_manifest
from streamflow_feast.materialize.audit import AuditError
from tests.feast.conftest import REPO
from tests.feast.offline import FEB, JAN, OTHERS, VIEWS, Offline, day
from tests.feast.test_types import NAMES, value_of
from tests.feast.test_types import VIEW as TYPED

SERVER = shutil.which("redis-server")
pytestmark = [
    pytest.mark.skipif(SERVER is None, reason="NOT TESTED: no redis-server in PATH"),
    pytest.mark.skipif(
        importlib.util.find_spec("redis") is None,
        reason="NOT TESTED: the Python package redis is not installed (pip install '.[redis]')",
    ),
]
USERS = [f"user-{number:03d}" for number in range(30)]
EVERYTHING = [f"{view}:{name}" for view, names in VIEWS.items() for name in names]


@pytest.fixture(scope="module")
def redis_port(free_port, tmp_path_factory):
    """A redis-server of our own, in memory alone."""
    import redis

    port, folder = free_port(), tmp_path_factory.mktemp("redis")
    server = subprocess.Popen(
        [SERVER, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    client = redis.Redis(port=port)
    for _ in range(100):
        try:
            client.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.05)
    yield port
    server.terminate()
    server.wait()


@pytest.fixture
def redis_store(offline, redis_port, tmp_path) -> FeatureStore:
    """The project's feature_store.redis.yaml, with the port of our server."""
    import redis

    redis.Redis(port=redis_port).flushall()
    text = (REPO / "feature_store.redis.yaml").read_text()
    assert "127.0.0.1:6379" in text
    path = tmp_path / "feature_store.redis.yaml"
    path.write_text(text.replace("6379", str(redis_port)))
    store = FeatureStore(fs_yaml_file=path)
    apply_definitions(store)
    return store


def served(store: FeatureStore, users: list[str] = USERS) -> dict:
    """user_id -> every feature, by name."""
    rows = [{"user_id": user} for user in users]
    columns = store.get_online_features(EVERYTHING, rows).to_dict()
    return {
        user: {name: columns[name][place] for name in columns if name != "user_id"}
        for place, user in enumerate(users)
    }


def expected(offline: Offline, users: list[str] = USERS) -> dict:
    wanted: dict = {user: {} for user in users}
    for view, features in VIEWS.items():
        rows = offline.expected(view)
        for user in users:
            values = rows[user][2:] if user in rows else [None] * len(features)
            wanted[user].update(zip(features, values, strict=True))
    return wanted


def audit(store: FeatureStore):
    from streamflow_feast.redis.audit import audit_redis

    return audit_redis(store=store)


def test_corrections_of_the_same_as_of_late_rows_and_new_months_arrive(redis_store, offline, now):
    offline.publish(offline.month(JAN, USERS))
    redis_store.materialize_incremental(now)
    assert served(redis_store) == expected(offline)
    offline.publish(offline.month(JAN, USERS[:4], shift=3))  # stock Feast skips these
    redis_store.materialize_incremental(now)
    assert served(redis_store) == expected(offline)
    offline.publish(offline.month(FEB, USERS, shift=5))
    offline.publish(offline.month(JAN, USERS, shift=6))
    redis_store.materialize_incremental(now)
    assert served(redis_store) == expected(offline)
    redis_store.materialize(day("2023-01-01"), JAN)
    assert served(redis_store) == expected(offline)
    assert [result.compared for result in audit(redis_store)] == [30] * len(VIEWS)


def test_users_who_left_and_retracted_rows_are_removed(redis_store, offline, now):
    offline.publish(offline.month(JAN, USERS))
    redis_store.materialize_incremental(now)
    offline.publish(offline.month(FEB, USERS[5:]))
    redis_store.materialize_incremental(now)
    assert served(redis_store) == expected(offline)
    assert offline.ledger("user_features")[-1]["removed"] == 5
    offline.publish({name: [(USERS[9], FEB, None)] for name in VIEWS})
    redis_store.materialize_incremental(now)
    assert served(redis_store) == expected(offline)
    audit(redis_store)


def test_a_new_feature_is_filled(redis_store, offline, now):
    offline.publish(offline.month(JAN, USERS))
    redis_store.materialize_incremental(now)
    offline.define({**VIEWS, "user_features": {**VIEWS["user_features"], "tenure_days": "bigint"}})
    with offline.connect() as connection:
        connection.execute("update features.user_features set tenure_days = 2 ^ 60")
    apply_definitions(redis_store, read_manifest())
    redis_store.materialize_incremental(now)
    rows = [{"user_id": "user-003"}]
    got = redis_store.get_online_features(["user_features:tenure_days"], rows).to_dict()
    assert got["tenure_days"] == [2**60]


def test_nothing_new_writes_nothing(redis_store, offline, now, monkeypatch):
    from feast.infra.online_stores.redis import RedisOnlineStore

    offline.publish(offline.month(JAN, USERS))
    redis_store.materialize_incremental(now)

    def refuse(*args, **kwargs):
        raise AssertionError("wrote to Redis")

    monkeypatch.setattr(RedisOnlineStore, "online_write_batch", refuse)
    redis_store.materialize_incremental(now)
    redis_store.materialize(day("1970-01-01"), now)
    last = offline.ledger("user_features")[-1]
    assert (last["considered"], last["changed"], last["unchanged"]) == (30, 0, 30)


def test_a_newer_push_stays(redis_store, offline, now):
    offline.publish(offline.month(JAN, USERS))
    pushed = pd.DataFrame(
        {
            "user_id": ["user-001"],
            "as_of": [FEB],
            "known_at": [now],
            "watch_hours_30d": [77.0],
            "skips_7d": [1],
        }
    )
    redis_store.write_to_online_store("usage_features", pushed)
    redis_store.materialize_incremental(now)
    assert served(redis_store)["user-001"]["watch_hours_30d"] == 77.0
    result = next(r for r in audit(redis_store) if r.view == "usage_features")
    assert (result.passed, result.pushed) == (True, 1)


def test_a_run_killed_in_the_middle_is_repeated_by_the_next(redis_store, offline, now, monkeypatch):
    from streamflow_feast.redis.writer import RedisWriter

    offline.publish(offline.month(JAN, USERS))
    redis_store.materialize_incremental(now)
    offline.publish(offline.month(FEB, USERS[5:], shift=2))
    write = RedisWriter._write

    def write_half(self, rows):
        write(self, rows[: len(rows) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(RedisWriter, "_write", write_half)
        with pytest.raises(KeyboardInterrupt):
            redis_store.materialize_incremental(now)
    offline.publish(offline.month(FEB + timedelta(days=1), USERS[10:], shift=3))
    redis_store.materialize_incremental(now)
    assert served(redis_store) == expected(offline)
    audit(redis_store)


def test_the_audit_names_what_differs(redis_store, offline, now, redis_port):
    import redis

    offline.publish(offline.month(JAN, USERS))
    offline.publish(offline.month(FEB, USERS[1:]))
    redis_store.materialize_incremental(now)
    client = redis.Redis(port=redis_port)
    gone = next(key for key in client.keys("*") if b"user-004" in key)
    client.delete(gone)
    left = pd.DataFrame(
        {
            "user_id": ["user-000"],
            "as_of": [JAN],
            "known_at": [now],
            "watch_hours_30d": [1.0],
            "skips_7d": [1],
        }
    )
    redis_store.write_to_online_store("usage_features", left)
    with pytest.raises(AuditError) as failed:
        audit(redis_store)
    result = next(r for r in failed.value.results if r.view == "usage_features")
    assert (result.differing, result.missing, result.extra) == (0, 1, 1)
    assert "usage_features user-004: missing" in str(failed.value)
    assert "usage_features user-000: extra" in str(failed.value)
    # The repair that the error names works here, too.
    redis_store.materialize(day("1970-01-01"), now)
    audit(redis_store)


def test_both_stores_beside_each_other_keep_their_own_record(redis_store, store, offline, now):
    offline.publish(offline.month(JAN, USERS))
    store.materialize_incremental(now)
    redis_store.materialize_incremental(now)
    assert served(redis_store) == expected(offline) == served(store)
    with offline.connect() as connection:
        stores = connection.execute(
            "select distinct split_part(store, ' ', 1) from ledger.materializations order by 1"
        ).fetchall()
    assert stores == [("postgres",), ("redis",)]


def test_other_entities_and_types_arrive_and_are_audited(redis_store, offline, now):
    """Keys of several parts and types, every type of a contract, and a key that leaves."""
    offline.define({**VIEWS, **OTHERS, **TYPED})
    apply_definitions(redis_store)
    region = uuid.UUID(int=7)
    typed = [
        (f"u{row}", JAN, {name: value_of(kind, row) for kind, name in NAMES.items()})
        for row in range(7)
    ]
    offline.publish(
        {
            "typed_features": typed,
            "account_features": [((2**53 + n, region), JAN, {"seats": n}) for n in range(3)],
            "user_device_features": [
                (("1", "23"), JAN, {"watch_share_30d": 0.1, "last_seen_at": JAN}),
                (("12", "3"), JAN, {"watch_share_30d": 0.2, "last_seen_at": None}),
            ],
        }
    )
    redis_store.materialize_incremental(now)
    counts = {result.view: result.compared for result in audit(redis_store)}
    assert counts["typed_features"] == 7
    assert counts["account_features"] == 3
    assert counts["user_device_features"] == 2
    found = redis_store.get_online_features(
        ["account_features:seats"],
        [{"account_id": 2**53 + n, "region_id": str(region)} for n in (2, 1, 9)],
    ).to_dict()
    assert found["seats"] == [2, 1, None]
    offline.publish({"user_device_features": [(("1", "23"), JAN, None)]})
    redis_store.materialize_incremental(now)
    shares = redis_store.get_online_features(
        ["user_device_features:watch_share_30d"],
        [{"user_id": "1", "device_id": "23"}, {"user_id": "12", "device_id": "3"}],
    ).to_dict()
    assert shares["watch_share_30d"] == [None, 0.2]
    assert all(result.passed for result in audit(redis_store))
    other = typed[0][2] | {NAMES["text[]"]: ["another"]}
    offline.publish({"typed_features": [("u0", JAN, other)]})
    with pytest.raises(AuditError, match=r"typed_features u0: differing"):
        audit(redis_store)


def test_a_redis_that_lost_everything_is_filled_by_the_next_run(
    redis_store, redis_port, offline, now, capsys
):
    import redis

    offline.publish(offline.month(JAN, USERS))
    redis_store.materialize_incremental(now)
    redis.Redis(port=redis_port).flushall()
    redis_store.materialize_incremental(now)
    assert "as after a restore" in capsys.readouterr().out
    assert served(redis_store) == expected(offline)
    redis_store.materialize_incremental(now)
    assert "as after a restore" not in capsys.readouterr().out


def test_a_redis_newer_than_a_restored_database_is_brought_back(redis_store, offline, now, capsys):
    """The lost publication had a newer month and somebody whom this ledger never knew."""
    known_at = offline.publish(offline.month(JAN, USERS))
    redis_store.materialize_incremental(now)
    lost = offline.publish(offline.month(FEB, [*USERS[3:], "stranger"], shift=4))
    redis_store.materialize_incremental(now)
    assert served(redis_store, ["stranger"])["stranger"]["watch_hours_30d"] is not None
    with offline.connect() as connection:  # as a backup from before knows it
        for view in VIEWS:
            connection.execute(f"delete from features.{view} where known_at = %s", [lost])
        connection.execute("delete from ledger.materializations where publication = %s", [lost])
        connection.execute("delete from ledger.publications where known_at = %s", [lost])
    assert known_at < lost
    redis_store.materialize_incremental(now)
    assert "as after a restore" in capsys.readouterr().out
    people = [*USERS, "stranger"]
    assert served(redis_store, people) == expected(offline, people)
    audit(redis_store)


def test_an_erased_user_leaves_redis_published_or_not(
    redis_store, redis_port, tmp_path, offline, now
):
    import redis

    from streamflow_feast.redis.eraser import erase_keys

    offline.publish(offline.month(JAN, USERS))
    redis_store.materialize_incremental(now)
    others = {user: row for user, row in served(redis_store).items() if user != "user-004"}
    client = redis.Redis(port=redis_port)
    before = client.dbsize()
    gone = erase_keys(
        tmp_path / "feature_store.redis.yaml", lambda keys: keys.get("user_id") == "user-004"
    )
    assert gone == 1
    assert client.dbsize() == before - 1
    assert set(served(redis_store, ["user-004"])["user-004"].values()) == {None}
    assert served(redis_store, list(others)) == others
