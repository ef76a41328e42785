"""Two small versioned tables in the form dbt gives them, and two Feast stores over them.

plan_features      never too old
activity_features  ttl of three days
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, RepoConfig, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.types import Bool, Float64, Int64, String

from data.database import Database

COLUMNS = {
    "plan_features": {"fee": "double precision", "months": "bigint", "net": "text"},
    "activity_features": {"hours": "double precision", "skips": "bigint", "is_new": "boolean"},
}
TTL = {"plan_features": timedelta(0), "activity_features": timedelta(days=3)}
REFS = [f"{view}:{name}" for view, names in COLUMNS.items() for name in names]
FEAST_TYPES = {"double precision": Float64, "bigint": Int64, "text": String, "boolean": Bool}


def day(number: float) -> datetime:
    """That many days after the first instant of 2024."""
    return datetime(2024, 1, 1, tzinfo=timezone.utc) + timedelta(days=number)


@dataclass(frozen=True)
class Version:
    """One row of a versioned table; days count from 2024-01-01."""

    user_id: str
    as_of: datetime
    known_at: datetime
    values: tuple[Any, ...] = (None, None, None)
    is_retracted: bool = False


@dataclass
class World:
    """The tables, and Feast's own store and ours over the same registry."""

    connection: psycopg.Connection
    stock: FeatureStore
    ours: FeatureStore
    versions: dict[str, list[Version]] = field(default_factory=lambda: {v: [] for v in COLUMNS})

    def put(self, view: str, *versions: Version) -> None:
        """Append versions and publish the newest known_at there is."""
        self.versions[view] += versions
        self._copy(view, versions)
        self.publish(max(v.known_at for v in versions))

    def replace(self, versions: dict[str, list[Version]]) -> None:
        """These versions instead of all others, published up to the newest."""
        self.connection.execute("truncate features.plan_features, features.activity_features")
        self.versions = versions
        for view, rows in versions.items():
            self._copy(view, rows)
        self.publish(max((v.known_at for rows in versions.values() for v in rows), default=day(0)))

    def publish(self, known_at: datetime) -> None:
        self.connection.execute(
            """
            insert into ledger.builds (
                known_at, invocation_id, status, load_from, load_to, recompute
            )
            values (%(k)s, %(k)s::text, 'published', 0, 0, false) on conflict do nothing
            """,
            {"k": known_at},
        )
        self.connection.execute(
            """
            insert into ledger.publications (
                known_at, invocation_id, code_version, load_to, cadence, rows_appended,
                definitions, tests_run
            )
            values (%(k)s, %(k)s::text, 'abc', 0, 'drops', '{}', '{}', 1) on conflict do nothing
            """,
            {"k": known_at},
        )

    def put_unpublished(self, view: str, *versions: Version) -> None:
        self._copy(view, versions)

    def _copy(self, view: str, versions: Any) -> None:
        columns = "user_id, as_of, known_at, is_retracted, " + ", ".join(COLUMNS[view])
        with self.connection.cursor().copy(f"copy features.{view} ({columns}) from stdin") as copy:
            for v in versions:
                copy.write_row((v.user_id, v.as_of, v.known_at, v.is_retracted, *v.values))


def _create_tables(connection: psycopg.Connection) -> None:
    for view, columns in COLUMNS.items():
        features = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        connection.execute(
            f"create table features.{view} (user_id text, as_of timestamptz, known_at timestamptz,"
            f" is_retracted boolean not null, {features}, primary key (user_id, as_of, known_at))"
        )
        connection.execute(
            f"create view published.{view} as select * from features.{view}"
            " where known_at <= (select max(known_at) from ledger.publications)"
        )


def _objects() -> list[Any]:
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    views = [
        FeatureView(
            name=view,
            entities=[user],
            ttl=TTL[view],
            schema=[
                Field(name="user_id", dtype=String),
                *(Field(name=name, dtype=FEAST_TYPES[kind]) for name, kind in columns.items()),
            ],
            source=PostgreSQLSource(
                name=view,
                table=f"published.{view}",
                timestamp_field="as_of",
                created_timestamp_column="known_at",
            ),
            online=False,
        )
        for view, columns in COLUMNS.items()
    ]
    service = FeatureService(name="some", features=[views[1][["skips"]], views[0]])
    return [user, *views, service]


def feast_store(folder: Path, offline_store: dict[str, Any]) -> FeatureStore:
    """A FeatureStore whose registry is a file in `folder`."""
    return FeatureStore(
        config=RepoConfig(
            project="training",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            offline_store=offline_store,
            entity_key_serialization_version=3,
        )
    )


def stock_config(settings: Database) -> dict[str, Any]:
    """feature_store.yaml's part for Feast's own Postgres store."""
    return {
        "type": "postgres",
        "host": settings.host,
        "port": settings.port,
        "database": settings.database,
        "user": settings.user,
        "password": settings.password.get_secret_value(),
        "sslmode": settings.sslmode,
    }


OURS = {"type": "feature_repo.offline_store.StreamflowOfflineStore"}


@pytest.fixture
def world(database: Database, tmp_path: Path) -> Iterator[World]:
    with database.connect() as connection:
        connection.autocommit = True
        _create_tables(connection)
        stock = feast_store(tmp_path, stock_config(database))
        stock.apply(_objects())
        yield World(connection, stock, feast_store(tmp_path, OURS))
