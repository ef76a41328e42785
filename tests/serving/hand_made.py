"""A small online store made by hand, and the API in front of it.

Made without dbt and Feast's commands, so that it can hold what a pipeline hardly ever leaves:
numbers JSON cannot say, a row without a value, a row past its ttl, two views with one name.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
from fastapi import FastAPI
from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.types import Bool, Float64, Int64, String

from data.database import Database

AS_OF = datetime(2024, 2, 29, tzinfo=timezone.utc)
KNOWN_AT = datetime(2024, 3, 1, 1, 12, 3, 456789, tzinfo=timezone.utc)
PUBLISHED_AT = datetime(2024, 3, 1, 1, 20, tzinfo=timezone.utc)
INVOCATION = "0bd0cd1f-6a3c-4a0a-8d5c-0a8e0a1c9d11"

TABLES = """
create table online.registry (
    name text primary key, version bigint not null, blob bytea not null,
    updated_at timestamptz not null default clock_timestamp()
);
create table online.plan_features (
    user_id text primary key, monthly_fee double precision, contract_type text,
    paperless_billing boolean, score bigint,
    as_of timestamptz not null, known_at timestamptz, published_at timestamptz
);
create table online.watch_features (
    user_id text primary key, watch_hours_30d double precision, skips_7d bigint, score bigint,
    as_of timestamptz not null, known_at timestamptz, published_at timestamptz
);
create table online.fresh_features (
    user_id text primary key, trend double precision,
    as_of timestamptz not null, known_at timestamptz, published_at timestamptz
);
create table published.plan_features_latest (
    user_id text, as_of timestamptz, known_at timestamptz, is_retracted boolean,
    monthly_fee double precision, contract_type text, paperless_billing boolean, score bigint
);
"""


def registry(*extra: FeatureService, views: dict[str, FeatureView] | None = None) -> Registry:
    """Feast's registry for TABLES, with further services."""
    views = views or feature_views()
    plan, watch, fresh = views["plan_features"], views["watch_features"], views["fresh_features"]
    services = [
        FeatureService(name="all_features", features=[plan, watch, fresh]),
        FeatureService(
            name="churn_v1",
            features=[plan[["monthly_fee"]], watch[["skips_7d"]]],
            description="What the churn model takes.",
        ),
        FeatureService(name="one_feature", features=[fresh]),
        *extra,
    ]
    made = Registry()
    made.last_updated.FromDatetime(datetime(2024, 3, 1))
    for view in views.values():
        proto = view.to_proto()
        proto.spec.project = "streamflow"
        made.feature_views.append(proto)
    for service in services:
        proto = service.to_proto()
        proto.spec.project = "streamflow"
        made.feature_services.append(proto)
    return made


def feature_views() -> dict[str, FeatureView]:
    """Three views; fresh_features expires after a day."""
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)

    def view(name: str, ttl: timedelta, **features: Any) -> FeatureView:
        fields = [
            Field(name=n, dtype=t, description=f"About {n}.", tags={"unit": "hours"})
            for n, t in features.items()
        ]
        return FeatureView(
            name=name,
            entities=[user],
            schema=[Field(name="user_id", dtype=String), *fields],
            source=PostgreSQLSource(name=name, table=f"published.{name}", timestamp_field="as_of"),
            ttl=ttl,
            description=f"The {name}.",
            tags={"dbt_model": f"model.streamflow.{name}"},
        )

    plan = {"monthly_fee": Float64, "contract_type": String, "paperless_billing": Bool}
    watch = {"watch_hours_30d": Float64, "skips_7d": Int64}
    return {
        "plan_features": view("plan_features", timedelta(0), **plan, score=Int64),
        "watch_features": view("watch_features", timedelta(0), **watch, score=Int64),
        "fresh_features": view("fresh_features", timedelta(days=1), trend=Float64),
    }


def store_registry(database: Database, made: Registry) -> None:
    """Write a registry as the next version, whose number is inside it too."""
    with database.connect() as connection:
        newest = connection.execute("select count(*), max(version) from online.registry").fetchone()
        made.version_id = str(newest[1] + 1 if newest and newest[0] else 1)
        connection.execute(
            "insert into online.registry (name, version, blob) values ('streamflow', %(n)s, %(b)s)"
            " on conflict (name) do update set blob = excluded.blob, version = excluded.version",
            {"n": int(made.version_id), "b": made.SerializeToString()},
        )


def fill(database: Database, users: int = 200) -> None:
    """Tables, rows and registry of the hand-made store."""
    now = datetime.now(timezone.utc)
    clocks = (AS_OF, KNOWN_AT, PUBLISHED_AT)
    plan = [
        ("7590-VHVEG", 29.85, "monthly", True, 1, *clocks),
        ("quotes", 1e300, 'a "quoted" \\ \n \u2028 名', False, 2**62, *clocks),
        ("not-finite", float("nan"), "x", None, None, *clocks),
        ("empty", None, None, None, None, *clocks),
        ("pushed", 0.1 + 0.2, None, None, None, AS_OF, None, PUBLISHED_AT),
        ("expired", 1.0, None, None, None, *clocks),
    ] + [(f"u{i:05}", i / 7, "yearly", i % 2 == 0, i, *clocks) for i in range(users)]
    watch = [
        ("7590-VHVEG", 12.5, 0, 7, *clocks),
        ("not-finite", float("-inf"), None, None, *clocks),
    ] + [(f"u{i:05}", i * 1.1, i, -i, *clocks) for i in range(users)]
    fresh = [("expired", 3.5, *clocks), ("7590-VHVEG", -0.5, now, KNOWN_AT, PUBLISHED_AT)]
    with database.connect() as connection:
        connection.execute(TABLES)
        for table, rows in (
            ("plan_features", plan),
            ("watch_features", watch),
            ("fresh_features", fresh),
        ):
            with connection.cursor().copy(f"copy online.{table} from stdin") as copy:
                for row in rows:
                    copy.write_row(row)
            connection.execute(f"analyze online.{table}")
        connection.execute(
            "insert into ledger.builds (known_at, invocation_id, status, load_from, load_to, "
            "recompute) values (%s, %s, 'published', 0, 1, false)",
            [KNOWN_AT, INVOCATION],
        )
        connection.execute(
            "insert into ledger.publications (known_at, invocation_id, code_version, load_to, "
            "cadence, rows_appended, definitions, tests_run) "
            "values (%s, %s, 'test', 1, 'drops', '{}', '{}', 1)",
            [KNOWN_AT, INVOCATION],
        )
        for table, as_of in (("plan", AS_OF), ("watch", AS_OF), ("fresh", now)):
            connection.execute(
                "insert into ledger.materializations (view_name, as_of, publication, end_date, "
                "columns, considered, changed, unchanged, removed, seconds) "
                "values (%s, %s, %s, %s, '{}', 1, 1, 0, 0, 0)",
                [f"{table}_features", as_of, KNOWN_AT, now],
            )
        connection.execute(
            "insert into published.plan_features_latest "
            "select '7590-VHVEG', %s::timestamptz - n * interval '31 days', %s, false, "
            "29.85 - n, 'monthly', true, n from generate_series(0, 14) as n",
            [AS_OF, KNOWN_AT],
        )
    store_registry(database, registry())


@contextlib.asynccontextmanager
async def running(app: FastAPI, **client: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The app, started, and a client of it; both end with the block."""
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1))
        client.setdefault("base_url", "http://127.0.0.1:8000")
        async with httpx.AsyncClient(transport=transport, **client) as made:
            yield made
