"""Feast's online store interface on typed tables."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from typing import Any

import pandas as pd
import psycopg
import pytest
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

from streamflow_feast import connections
from streamflow_feast.dbt.feast_objects import apply_definitions
from streamflow_feast.dbt.manifest import parse_manifest
from tests.feast.offline import FEB, JAN, VIEWS, Offline, manifest

USERS = [f"user-{number:03d}" for number in range(20)]
EVERYTHING = [f"{view}:{name}" for view, names in VIEWS.items() for name in names]


@pytest.fixture
def filled(offline, store, now):
    """January of 20 users is online; user-003 and user-010, user-017 have null values."""
    offline.publish(offline.month(JAN, USERS))
    store.materialize_incremental(now)
    return store


def answers(response: Any) -> dict[str, list[tuple[Any, str, datetime]]]:
    """Feature -> (value, status, event timestamp) a user."""
    proto, values = response.proto, response.to_dict()
    return {
        name: [
            (value, FieldStatus.Name(state), stamp.ToDatetime(timezone.utc))
            for value, state, stamp in zip(
                values[name], result.statuses, result.event_timestamps, strict=True
            )
        ]
        for name, result in zip(proto.metadata.feature_names.val, proto.results, strict=True)
        if name != "user_id"
    }


def ask(store, features: list[str], users: list[str]) -> dict:
    return answers(store.get_online_features(features, [{"user_id": user} for user in users]))


def pushed(user: str, as_of: datetime, hours: float, known_at: datetime | None) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "user_id": [user],
            "as_of": [as_of],
            "known_at": [known_at],
            "watch_hours_30d": [hours],
            "skips_7d": [4],
        }
    )


def test_values_statuses_and_event_timestamps_of_found_null_and_unknown(filled):
    got = ask(filled, EVERYTHING, ["user-002", "user-003", "nobody", "user-002"])
    never = datetime(1970, 1, 1, tzinfo=timezone.utc)
    found = (0.2, "PRESENT", JAN)
    assert got["watch_hours_30d"] == [
        found, (None, "NULL_VALUE", JAN), (None, "NOT_FOUND", never), found,
    ]  # fmt: skip
    assert got["skips_7d"][0] == (2**53 + 3, "PRESENT", JAN)
    assert got["user_gender"][0] == ("user-002's é\"\n0", "PRESENT", JAN)
    assert got["is_senior"][0] == (True, "PRESENT", JAN)
    assert {column[2][1] for column in got.values()} == {"NOT_FOUND"}


def test_the_async_read_answers_the_same(filled):
    rows = [{"user_id": user} for user in [*USERS, "nobody"]]

    async def several() -> list:
        await filled.initialize()
        try:
            return await asyncio.gather(
                *(filled.get_online_features_async(EVERYTHING, rows) for _ in range(20))
            )
        finally:
            await filled.close()

    wanted = answers(filled.get_online_features(EVERYTHING, rows))
    for _ in range(2):  # an event loop each
        for response in asyncio.run(several()):
            assert answers(response) == wanted


def test_a_row_older_than_ttl_is_outside_max_age(offline, store, now):
    offline.define(VIEWS, ttl_days={"usage_features": 30})
    apply_definitions(store)
    fresh = now - timedelta(days=29)
    offline.publish({"usage_features": [("old", JAN, {"skips_7d": 1})]})
    store.materialize_incremental(now)
    store.write_to_online_store("usage_features", pushed("fresh", fresh, 1.0, now))
    got = ask(store, ["usage_features:skips_7d"], ["old", "fresh"])["skips_7d"]
    assert got[0] == (None, "OUTSIDE_MAX_AGE", JAN)
    assert got[1][:2] == (4, "PRESENT")


def test_a_feature_service_and_full_names_work(filled):
    service = filled.get_feature_service("all_features")
    response = filled.get_online_features(service, [{"user_id": "user-001"}], True)
    values = response.to_dict()
    assert values["usage_features__watch_hours_30d"] == [0.1]
    assert len(values) == 1 + len(EVERYTHING)


def test_a_request_over_several_views_is_one_statement(filled, monkeypatch):
    statements = []
    execute = psycopg.Cursor.execute

    def noted(self, query, *args, **kwargs):
        statements.append(query)
        return execute(self, query, *args, **kwargs)

    monkeypatch.setattr(psycopg.Cursor, "execute", noted)
    filled.get_online_features(EVERYTHING, [{"user_id": user} for user in USERS])
    assert len(statements) == 1


def test_reads_after_the_server_closed_every_connection(filled, offline):
    async def read_twice() -> list:
        rows = [{"user_id": "user-001"}]
        first = await filled.get_online_features_async(EVERYTHING, rows)
        close_all(offline)
        second = await filled.get_online_features_async(EVERYTHING, rows)
        await filled.close()
        return [answers(first), answers(second)]

    before = ask(filled, EVERYTHING, ["user-001"])
    close_all(offline)
    assert ask(filled, EVERYTHING, ["user-001"]) == before
    assert asyncio.run(read_twice()) == [before, before]


def close_all(offline: Offline) -> None:
    with offline.connect() as connection:
        connection.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )


def test_reads_again_when_a_stopped_server_is_back(filled, server):
    before = ask(filled, EVERYTHING, ["user-001"])
    server.stop("fast")
    try:
        with pytest.raises(connections.DatabaseUnreachable, match="make up"):
            ask(filled, EVERYTHING, ["user-001"])
    finally:
        server.start()
    assert ask(filled, EVERYTHING, ["user-001"]) == before


def test_a_failed_read_leaks_no_connection(filled, offline):
    from streamflow_feast.online.store import OnlineStoreError

    with offline.connect() as connection:
        connection.execute("drop table online.user_features")
    for _ in range(30):
        with pytest.raises(OnlineStoreError, match="feast apply"):
            ask(filled, ["user_features:is_senior"], ["user-001"])
    with offline.connect() as connection:
        (count,) = connection.execute(
            "select count(*) from pg_stat_activity where application_name = 'streamflow feast'"
        ).fetchone()
    assert count <= 2
    assert ask(filled, ["usage_features:skips_7d"], ["user-001"])["skips_7d"][0][1] == "PRESENT"


def test_a_push_is_served_and_never_older_than_what_is_there(filled, offline, now):
    feature = "usage_features:watch_hours_30d"

    def read() -> Any:
        return ask(filled, [feature], ["user-001"])["watch_hours_30d"][0][::2]

    filled.write_to_online_store("usage_features", pushed("user-001", FEB, 7.0, now))
    assert read() == (7.0, FEB)
    filled.write_to_online_store("usage_features", pushed("user-001", JAN, 1.0, now))
    assert read() == (7.0, FEB)
    older = now - timedelta(days=1)
    filled.write_to_online_store("usage_features", pushed("user-001", FEB, 6.0, older))
    assert read() == (7.0, FEB)
    # Of the same as_of, a push without a created timestamp replaces, and is replaced when the
    # as_of is published again.
    filled.write_to_online_store("usage_features", pushed("user-001", FEB, 8.0, None))
    assert read() == (8.0, FEB)
    offline.publish(offline.month(FEB, USERS, shift=100))
    filled.materialize_incremental(now)
    assert read() == (100.1, FEB)


def test_the_first_push_after_the_server_closed_its_connections(filled, offline, now):
    """Idle connections die with a restart or a firewall; nothing pushed may be lost to that."""
    filled.write_to_online_store("usage_features", pushed("user-000", now, 1.0, None))
    with psycopg.connect(offline.settings.conninfo()) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where pid <> pg_backend_pid() and datname = current_database()"
        )
    filled.write_to_online_store("usage_features", pushed("user-000", now, 2.0, None))
    [(value, *_)] = ask(filled, ["usage_features:watch_hours_30d"], ["user-000"])["watch_hours_30d"]
    assert value == 2.0


def test_a_push_without_a_key_or_a_time_writes_nothing(filled, now):
    from streamflow_feast.online.store import OnlineStoreError

    right = pushed("right", FEB, 1.0, now)
    for column in ("user_id", "as_of"):
        both = pd.concat([right, right], ignore_index=True)
        both.loc[1, column] = None
        with pytest.raises(OnlineStoreError, match="nothing was written"):
            filled.write_to_online_store("usage_features", both)
    got = ask(filled, ["usage_features:skips_7d"], ["right"])
    assert got["skips_7d"][0][1] == "NOT_FOUND"


def test_an_async_push_is_served(filled, now):
    frame = pushed("new-user", FEB, 2.5, now)
    asyncio.run(filled.write_to_online_store_async("usage_features", frame))
    got = ask(filled, ["usage_features:watch_hours_30d"], ["new-user"])
    assert got["watch_hours_30d"] == [(2.5, "PRESENT", FEB)]


def test_a_push_source_works(filled, now):
    from feast import FeatureView, PushSource

    view = filled.get_feature_view("usage_features")
    source = PushSource(name="usage_pushes", batch_source=view.batch_source)
    user = filled.get_entity("user")
    pushable = FeatureView(
        name=view.name, entities=[user], schema=view.schema, source=source, ttl=view.ttl
    )
    filled.apply([user, source, pushable])
    filled.push("usage_pushes", pushed("user-001", FEB, 9.5, now))
    got = ask(filled, ["usage_features:watch_hours_30d"], ["user-001", "user-002"])
    assert got["watch_hours_30d"] == [(9.5, "PRESENT", FEB), (0.2, "PRESENT", JAN)]
    filled.materialize_incremental(now)
    assert ask(filled, ["usage_features:skips_7d"], ["user-001"])["skips_7d"][0][0] == 4


def columns(offline: Offline, view: str) -> dict[str, str]:
    with offline.connect() as connection:
        return dict(
            connection.execute(
                "select column_name, data_type from information_schema.columns"
                " where table_schema = 'online' and table_name = %s",
                [view],
            ).fetchall()
        )


def test_update_adds_widens_and_drops_columns_and_keeps_the_others(offline, store, now, capsys):
    narrow = {"usage_features": {"a": "integer", "b": "real", "c": "text"}}
    offline.define({"other_features": {"x": "bigint"}} | narrow)
    apply_definitions(store)
    offline.publish(offline.month(JAN, USERS))
    store.materialize_incremental(now)
    wide = {"usage_features": {"a": "bigint", "b": "double precision", "d": "boolean"}}
    apply_definitions(store, parse_manifest(manifest({"other_features": {"x": "bigint"}} | wide)))
    there = columns(offline, "usage_features")
    assert (there["a"], there["b"], there["d"]) == ("bigint", "double precision", "boolean")
    assert "c" not in there
    with offline.connect() as connection:
        row = connection.execute(
            "select a, b, d from online.usage_features where user_id = 'user-002'"
        ).fetchone()
    assert row == (2, 1.0, None)
    assert len(offline.online("other_features")) == 20
    assert "online.usage_features: widened a from integer to bigint" in capsys.readouterr().out


def test_a_column_of_another_type_is_filled_anew(offline, store, now):
    offline.define({"usage_features": {"a": "text"}})
    apply_definitions(store)
    offline.publish({"usage_features": [("u", JAN, {"a": "12"})]})
    store.materialize_incremental(now)
    with offline.connect() as connection:
        connection.execute("drop view published.usage_features")
        connection.execute(
            "alter table features.usage_features alter a type bigint using a::bigint"
        )
    offline.views["usage_features"] = {"a": "bigint"}
    offline.define({"usage_features": {"a": "bigint"}})
    apply_definitions(store)
    store.materialize_incremental(now)
    assert offline.online("usage_features")["u"][2] == 12


def test_a_view_that_is_gone_is_dropped_and_that_is_said(filled, offline, capsys):
    without = {name: VIEWS[name] for name in VIEWS if name != "user_features"}
    apply_definitions(filled, parse_manifest(manifest(without)))
    assert columns(offline, "user_features") == {}
    said = capsys.readouterr().err
    assert "WARNING online.user_features: dropped with 20 rows" in said
    assert "published.user_features is still there" in said
    # Brought back by mistake's end: filled again, though nothing new is published.
    apply_definitions(filled)
    filled.materialize_incremental(datetime.now(timezone.utc))
    assert len(offline.online("user_features")) == 20


def test_a_table_dropped_by_hand_is_made_and_filled_again(filled, offline, now):
    with offline.connect() as connection:
        connection.execute("drop table online.user_features")
    apply_definitions(filled)
    filled.materialize_incremental(now)
    assert len(offline.online("user_features")) == 20


def test_teardown_leaves_no_table_and_the_next_apply_starts_over(filled, offline, store, now):
    filled.teardown()
    with offline.connect() as connection:
        tables = connection.execute(
            "select tablename from pg_tables where schemaname = 'online'"
        ).fetchall()
    assert tables == [("registry",)]
    from feast import FeatureStore

    again = FeatureStore(repo_path=str(filled.repo_path))
    apply_definitions(again)
    again.materialize_incremental(now)
    assert len(offline.online("usage_features")) == 20


def test_a_join_key_of_another_type_is_refused(store):
    from feast import Entity, FeatureView, Field, ValueType
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
        PostgreSQLSource,
    )
    from feast.types import Float64, Int64

    from streamflow_feast.views import UnsupportedViewError

    place = Entity(name="place", join_keys=["latitude"], value_type=ValueType.DOUBLE)
    view = FeatureView(
        name="place_features",
        entities=[place],
        schema=[Field(name="latitude", dtype=Float64), Field(name="n", dtype=Int64)],
        source=PostgreSQLSource(name="p", table="published.p", timestamp_field="as_of"),
    )
    with pytest.raises(UnsupportedViewError, match="join key latitude is double precision; join"):
        store.apply([place, view])
