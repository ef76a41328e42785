"""What stock Feast 0.67 gets wrong on Postgres, beside what this project does with the same data.

Each test here is a row of docs/stock-feast.md. Both sides read the same published tables. When
another version of Feast gets one of them right, its test fails, so that the table stays true.
"""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import FeatureStore, RepoConfig

from data.database import Database
from streamflow_feast.dbt.feast_objects import apply_definitions
from streamflow_feast.dbt.manifest import read_manifest
from tests.feast.offline import FEB, JAN, VIEWS, Offline, day

pytestmark = pytest.mark.filterwarnings("ignore")

DOCS = Path(__file__).resolve().parents[2] / "docs" / "stock-feast.md"
USERS = ["user-a", "user-b", "user-c"]
START = day("2023-01-01")
END = day("2024-12-31")
HOURS = "usage_features:watch_hours_30d"


@pytest.fixture
def stock(offline: Offline, database: Database, tmp_path: Path) -> FeatureStore:
    """Stock Feast with its own Postgres stores over the published tables."""
    with offline.connect() as connection:
        connection.execute("create schema stock")
    place = {
        "type": "postgres",
        "host": database.host,
        "port": database.port,
        "database": database.database,
        "db_schema": "stock",
        "user": database.user,
        "password": database.password.get_secret_value(),
        "sslmode": "disable",
    }
    config = RepoConfig(
        project="stock",
        provider="local",
        registry=str(tmp_path / "stock.db"),
        offline_store=place,
        online_store=place,
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    apply_definitions(store)
    return store


def read(store: FeatureStore, feature: str = HOURS, user: str = "user-a") -> Any:
    answer = store.get_online_features([feature], [{"user_id": user}]).to_dict()
    return answer[feature.split(":")[1]][0]


def status(store: FeatureStore, feature: str, user: str) -> str:
    from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

    proto = store.get_online_features([feature], [{"user_id": user}]).proto
    place = list(proto.metadata.feature_names.val).index(feature.split(":")[1])
    return FieldStatus.Name(proto.results[place].statuses[0])


def usage(as_of: datetime, hours: float | None, user: str = "user-a") -> dict:
    return {"usage_features": [(user, as_of, {"watch_hours_30d": hours, "skips_7d": 1})]}


def test_first_run(offline, store, stock, now):
    offline.publish(offline.month(JAN, USERS, shift=5))
    for each in (store, stock):
        each.materialize_incremental(now)
    assert (read(store), read(stock)) == (5.0, None)


def test_late_correction(offline, store, stock):
    offline.publish(offline.month(JAN, USERS))
    stock.materialize(START, FEB)
    store.materialize_incremental(FEB)
    offline.publish(usage(JAN, 99.0))
    for each in (store, stock):
        each.materialize_incremental(END)
    assert (read(store), read(stock)) == (99.0, 0.0)


def test_old_backfill(offline, store, stock):
    offline.publish(offline.month(FEB, USERS, shift=2))
    stock.materialize(START, END)
    store.materialize_incremental(END)
    offline.publish(offline.month(JAN, USERS, shift=1))
    for each in (store, stock):
        each.materialize(START, JAN + timedelta(days=1))
    assert (read(store), read(stock)) == (2.0, 1.0)


def test_same_as_of_corrected(offline, store, stock):
    offline.publish(offline.month(JAN, USERS))
    stock.materialize(START, JAN)
    store.materialize_incremental(JAN)
    offline.publish(usage(JAN, 42.0))
    for each in (store, stock):
        each.materialize_incremental(JAN + timedelta(days=1))
    # Stock starts the next run at the end of the last one: here exactly at this as_of, which it
    # includes, so that it is right by luck; a second later it is not.
    assert read(store) == 42.0
    offline.publish(usage(JAN, 43.0))
    for each in (store, stock):
        each.materialize_incremental(JAN + timedelta(days=2))
    assert (read(store), read(stock)) == (43.0, 42.0)


def test_new_feature(offline, store, stock):
    offline.publish(offline.month(JAN, USERS))
    stock.materialize(START, END)
    store.materialize_incremental(END)
    offline.define({**VIEWS, "user_features": {**VIEWS["user_features"], "tenure_days": "bigint"}})
    with offline.connect() as connection:  # a version differs in the new column alone
        connection.execute("update features.user_features set tenure_days = 77")
    for each in (store, stock):
        apply_definitions(each, read_manifest())
        each.materialize_incremental(END + timedelta(days=1))
    feature = "user_features:tenure_days"
    assert (read(store, feature), read(stock, feature)) == (77, None)


def test_future_end_date(offline, store, stock):
    offline.publish(offline.month(JAN, USERS))
    stock.materialize(START, day("2100-01-01"))
    store.materialize_incremental(day("2100-01-01"))
    offline.publish(offline.month(FEB, USERS, shift=8))
    for each in (store, stock):
        each.materialize_incremental(END)
    assert (read(store), read(stock)) == (8.0, 0.0)


def test_user_who_left(offline, store, stock):
    offline.publish(offline.month(JAN, USERS, shift=3))
    stock.materialize(START, JAN)
    store.materialize_incremental(JAN)
    offline.publish(offline.month(FEB, USERS[1:]))
    for each in (store, stock):
        each.materialize_incremental(END)
    assert (read(store), read(stock)) == (None, 3.0)


def test_retracted_row(offline, store, stock):
    offline.publish(offline.month(JAN, USERS, shift=3))
    offline.publish({name: [("user-a", JAN, None)] for name in VIEWS})
    stock.materialize(START, END)
    store.materialize_incremental(END)
    assert (status(store, HOURS, "user-a"), status(stock, HOURS, "user-a")) == (
        "NOT_FOUND",
        "PRESENT",
    )


def test_read_while_materializing(offline, store, stock, monkeypatch):
    """Stock refuses from the second run on: the first one leaves the state it starts from."""
    offline.publish(offline.month(JAN, USERS, shift=3))
    for each in (store, stock):
        each.materialize(START, END)
    answers: list[Any] = []

    def ask(each: FeatureStore) -> None:
        try:
            answers.append(read(each))
        except ValueError as refused:
            answers.append(str(refused))

    from feast.infra.compute_engines.local.compute import LocalComputeEngine

    from streamflow_feast.materialize import slice as publish

    ours, theirs = publish.run, LocalComputeEngine._materialize_one
    monkeypatch.setattr(
        "streamflow_feast.materialize.slice.run", lambda *args: (ask(store), ours(*args))[1]
    )

    def ask_stock(*args: Any, **kwargs: Any) -> Any:
        ask(stock)
        return theirs(*args, **kwargs)

    monkeypatch.setattr(LocalComputeEngine, "_materialize_one", ask_stock)
    store.materialize(START, END, feature_views=["usage_features"])
    stock.materialize(START, END, feature_views=["usage_features"])
    assert answers[0] == 3.0
    assert "MATERIALIZING" in answers[1]


def test_kill_while_materializing(offline, store, stock, monkeypatch):
    """As a kill -9 leaves it: the exception handlers of the run never ran."""
    offline.publish(offline.month(JAN, USERS, shift=3))
    for each in (store, stock):
        each.materialize(START, END)

    class Killed(BaseException):
        pass

    from feast.infra.compute_engines.local.compute import LocalComputeEngine

    def killed(*args: Any, **kwargs: Any) -> None:
        raise Killed

    monkeypatch.setattr("streamflow_feast.materialize.slice.run", killed)
    monkeypatch.setattr(LocalComputeEngine, "_materialize_one", killed)
    for each in (store, stock):
        with pytest.raises(Killed):
            each.materialize(START, END, feature_views=["usage_features"])
    assert read(store) == 3.0
    with pytest.raises(ValueError, match="MATERIALIZING"):
        read(stock)


def test_kill_between_views(offline, store, stock, monkeypatch):
    from feast.infra.compute_engines.local.compute import LocalComputeEngine

    from streamflow_feast.materialize import slice as publish

    offline.publish(offline.month(JAN, USERS, shift=1))
    for each in (store, stock):
        each.materialize(START, JAN)
    offline.publish(offline.month(FEB, USERS, shift=2))

    class Killed(BaseException):
        pass

    def after_one(function: Any) -> Any:
        calls: list[int] = []

        def run(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) > 1:
                raise Killed
            return function(*args, **kwargs)

        return run

    ours, theirs = publish.run, LocalComputeEngine._materialize_one
    monkeypatch.setattr("streamflow_feast.materialize.slice.run", after_one(ours))
    monkeypatch.setattr(LocalComputeEngine, "_materialize_one", after_one(theirs))
    for each in (store, stock):
        with pytest.raises(Killed):
            each.materialize(START, END)
    with offline.connect() as connection:
        stock_months = {
            event
            for name in VIEWS
            for (event,) in connection.execute(f"select distinct event_ts from stock.stock_{name}")
        }
    our_months = {row[0] for name in VIEWS for row in offline.online(name).values()}
    assert (len(our_months), len(stock_months)) == (1, 2)


def test_older_than_ttl(offline, store, stock):
    offline.define(VIEWS, ttl_days={"usage_features": 30})
    offline.publish(offline.month(JAN, USERS, shift=3))
    for each in (store, stock):
        apply_definitions(each, read_manifest())
        each.materialize(START, END)
    assert (status(store, HOURS, "user-a"), read(store)) == ("OUTSIDE_MAX_AGE", None)
    assert (status(stock, HOURS, "user-a"), read(stock)) == ("PRESENT", 3.0)


def test_null_value(offline, store, stock):
    offline.publish(usage(JAN, None))
    for each in (store, stock):
        each.materialize(START, END)
    statuses = (status(store, HOURS, "user-a"), status(stock, HOURS, "user-a"))
    assert statuses == ("NULL_VALUE", "PRESENT")


def test_large_integer_beside_a_null(offline, store, stock):
    large = 2**53 + 1
    rows = [("user-a", JAN, {"skips_7d": large}), ("user-b", JAN, {"skips_7d": None})]
    offline.publish({"usage_features": rows})
    for each in (store, stock):
        each.materialize(START, END)
    feature = "usage_features:skips_7d"
    assert (read(store, feature), read(stock, feature)) == (large, large - 1)


def test_dropped_connection(offline, store, stock):
    offline.publish(offline.month(JAN, USERS, shift=3))
    for each in (store, stock):
        each.materialize(START, END)
        read(each)
    with offline.connect() as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
    time.sleep(0.1)
    assert read(store) == 3.0
    for _ in range(3):
        with pytest.raises(Exception, match=r"connection|terminat"):
            read(stock)


def test_old_push(offline, store, stock):
    offline.publish(offline.month(FEB, USERS, shift=3))
    pushed = pd.DataFrame(
        {
            "user_id": ["user-a"],
            "as_of": [JAN],
            "known_at": [datetime.now(timezone.utc)],
            "watch_hours_30d": [1.0],
            "skips_7d": [1],
        }
    )
    for each in (store, stock):
        each.materialize(START, END)
        each.write_to_online_store("usage_features", pushed)
    assert (read(store), read(stock)) == (3.0, 1.0)


def test_the_documented_table_has_a_row_for_each_test_here():
    documented = set(re.findall(r"^\| `(\w+)` \|", DOCS.read_text(), flags=re.MULTILINE))
    here = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    here.remove("the_documented_table_has_a_row_for_each_test_here")
    assert documented == here
