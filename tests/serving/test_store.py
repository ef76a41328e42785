"""What the API reads: a registry that changes under it, and with which rights."""

from __future__ import annotations

import asyncio
import json

import psycopg
import pytest
from feast import FeatureService

from data.database import Database
from serving.main import create_app
from serving.settings import Settings
from serving.store.postgres import PostgresStore
from tests.serving.hand_made import (
    feature_views,
    registry,
    running,
    store_registry,
)


def test_a_registry_change_shows_after_reload_and_by_itself(own_online: Database) -> None:
    async def run() -> None:
        async with running(create_app(Settings(refresh=0.2), own_online)) as client:
            url = "/features/u00001?service=added"
            assert (await client.get(url)).status_code == 404
            views = feature_views()
            added = FeatureService(name="added", features=[views["plan_features"][["score"]]])
            store_registry(own_online, registry(added))
            reloaded = await client.post("/-/reload")
            assert reloaded.json() == {"registry_version": 2}
            assert (await client.get(url)).json()["features"] == {"score": 1}
            store_registry(own_online, registry())
            for _ in range(50):
                await asyncio.sleep(0.05)
                if (await client.get(url)).status_code == 404:
                    break
            assert (await client.get(url)).status_code == 404

    asyncio.run(run())


def test_a_dropped_column_shows_the_new_registry_at_once(own_online: Database) -> None:
    """Between `feast apply` and the next refresh, no request may fail."""

    async def run() -> None:
        async with running(create_app(Settings(refresh=60), own_online)) as client:
            assert "skips_7d" in (await client.get("/features/u00001")).json()["features"]
            views = feature_views()
            made = registry(views=views)
            for service in made.feature_services:
                for projection in service.spec.features:
                    kept = [c for c in projection.feature_columns if c.name != "skips_7d"]
                    del projection.feature_columns[:]
                    projection.feature_columns.extend(kept)
            with own_online.connect() as connection:
                connection.execute("alter table online.watch_features drop column skips_7d")
            missing = await client.get("/features/u00001")
            assert missing.status_code == 503  # the registry still promises the column
            assert missing.json()["type"] == "/docs#problem-store-mismatch"
            assert "skips_7d" not in json.dumps(missing.json())
            store_registry(own_online, made)
            changed = await client.get("/features/u00001")
            assert changed.status_code == 200
            assert "skips_7d" not in changed.json()["features"]

    asyncio.run(run())


def test_a_column_that_changed_its_type_is_read_anew(own_online: Database) -> None:
    async def run() -> None:
        async with running(create_app(Settings(connections=1), own_online)) as client:
            assert (await client.get("/features/u00003")).json()["features"]["skips_7d"] == 3
            with own_online.connect() as connection:
                connection.execute(
                    "alter table online.watch_features alter column skips_7d type double precision"
                )
            answer = await client.get("/features/u00003")
            assert (answer.status_code, answer.json()["features"]["skips_7d"]) == (200, 3.0)

    asyncio.run(run())


def test_a_defect_in_a_lane_costs_its_reads_and_no_more(
    online: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = PostgresStore._take
    broken = iter([True])

    def fail_once(store: PostgresStore) -> list:
        reads = take(store)
        if reads and next(broken, False):
            raise RuntimeError("defect")
        return reads

    async def run() -> None:
        monkeypatch.setattr(PostgresStore, "_take", fail_once)
        async with running(create_app(Settings(connections=1, timeout=0.3), online)) as client:
            assert (await client.get("/features/u00001")).status_code == 503
            assert (await client.get("/features/u00001")).status_code == 200

    asyncio.run(run())


def test_the_serving_role_can_read_what_it_serves_and_nothing_else(online: Database) -> None:
    """Shown against the real role: what a stolen API process could do with its connection."""
    with psycopg.connect(online.conninfo(serving=True), autocommit=True) as connection:
        tables = connection.execute(
            "select n.nspname, c.relname, has_table_privilege(c.oid, 'select'), "
            "has_table_privilege(c.oid, 'insert, update, delete, truncate, references, trigger') "
            "from pg_class c join pg_namespace n on n.oid = c.relnamespace "
            "where n.nspname in ('raw', 'staging', 'features', 'published', 'online', 'ledger') "
            "and c.relkind in ('r', 'v', 'm', 'p')"
        ).fetchall()
        assert {schema for schema, *_ in tables} >= {"raw", "published", "online", "ledger"}
        for schema, table, may_read, may_write in tables:
            assert may_read == (schema in ("online", "ledger")), (schema, table)
            assert not may_write, (schema, table)
        for statement in (
            "select * from raw.users",
            "select * from published.plan_features_latest",
            "insert into online.plan_features (user_id, as_of) values ('x', now())",
            "update online.registry set version = 9",
            "delete from ledger.publications",
            "create table online.mine (x int)",
            "create table public.mine (x int)",
            "create schema mine",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
        attributes = connection.execute(
            "select rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls "
            "from pg_roles where rolname = current_user"
        ).fetchone()
        assert attributes == (False,) * 5
        others = "select has_function_privilege('online.history(text, jsonb, int)', 'execute')"
        assert connection.execute(others).fetchone() == (True,)
