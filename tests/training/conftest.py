"""Two small versioned tables in the form dbt gives them, and two Feast stores over them.

plan_features      never too old
activity_features  ttl of three days
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
from streamflow_feast.offline import frame_read, sweep

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
        connection.execute(f"create index on features.{view} (as_of, known_at)")
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


OURS = {"type": "streamflow_feast.offline.store.StreamflowOfflineStore", "connections": 3}


@contextmanager
def read_as_a_whole(is_so: bool) -> Iterator[None]:
    """Inside, every view is read as a whole, as for a large frame, or else looked up by row."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sweep, "BYTES_A_LOOK_UP", 10**12 if is_so else 0)
        yield


@pytest.fixture
def world(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    # Frames of four rows and more on several connections, as large ones are.
    monkeypatch.setattr(frame_read, "ROWS_A_CONNECTION", 4)
    with database.connect() as connection:
        connection.autocommit = True
        _create_tables(connection)
        stock = feast_store(tmp_path, stock_config(database))
        stock.apply(_objects())
        yield World(connection, stock, feast_store(tmp_path, OURS))


@pytest.fixture
def days(world: World) -> World:
    """User a has fee n from day n on, for ten days."""
    world.put(
        "plan_features", *(Version("a", day(d), day(20), (float(d), d, "x")) for d in range(10))
    )
    return world


# --- a small project, loaded and built ---------------------------------------------------------

JANUARY = {
    "users": """
        user_id,signup_date,user_gender,user_is_senior,has_family,has_dependents
        a,2023-05-01,Female,False,True,
        b,2023-06-01,Male,True,False,False
        c,2023-07-01,,,,
        d,2023-08-01,Male,False,False,False
    """,
    "subscriptions": """
        user_id,months_active,plan_stream_tv,plan_stream_movies,contract_type,paperless_billing,monthly_fee,total_paid,net_service
        a,8,True,False,One year,True,29.85,238.80,DSL
        b,7,,,Two year,False,99.10,,No
        c,6,False,True,Month-to-month,,20,120,Fiber optic
        d,5,False,False,Month-to-month,True,20,100,DSL
    """,
    "usage_agg_30d": """
        user_id,watch_hours_30d,avg_session_mins_7d,unique_devices_30d,skips_7d,rebuffer_events_7d
        a,24.483650766787413,29.1,2,7,1
        b,0.1,,1,0,0
    """,
    "labels": """
        user_id,churn_label
        a,True
        b,False
        c,False
    """,
}
FEBRUARY = {
    **JANUARY,
    "labels": """
        user_id,churn_label
        a,False
        b,True
        c,False
        d,False
    """,
}
# Delivered later: what is different about January.
CORRECTION = {
    "subscriptions": JANUARY["subscriptions"].replace("29.85", "31.00"),
    "labels": JANUARY["labels"].replace("b,False", "b,True").replace("c,False", ""),
}


# In a process of its own: what it connects ends with it, and only a database that nobody is
# connected to can be copied.
BUILD = """
import sys
from pathlib import Path

from orchestration import steps

for drop in sorted(Path(sys.argv[1]).iterdir()):
    steps.ingest(drop)
steps.build()
steps.apply()
"""


def write_drop(root: Path, name: str, files: dict[str, str]) -> Path:
    """Write the files as the drop of a date."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for table, text in files.items():
        lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
        (folder / f"{table}.csv").write_text("\n".join(lines) + "\n")
    return folder


def _copy(source: str, name: str) -> None:
    admin = Database().model_copy(update={"database": "postgres"})
    with psycopg.connect(admin.conninfo(), autocommit=True) as connection:
        connection.execute(f"drop database if exists {name} with (force)")
        connection.execute(f"create database {name} template {source}")


@pytest.fixture(scope="session")
def made() -> set[str]:
    """Holds "trained" once the template of that name is there."""
    return set()


@pytest.fixture
def trained(
    database: Database,
    made: set[str],
    session_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> datetime:
    """January and February, loaded, built and applied to Feast; known_at of the publication."""
    monkeypatch.setenv("DBT_TARGET_PATH", str(session_folder / "training-target"))
    if "trained" in made:
        _copy("template_trained", database.database)
    else:
        write_drop(tmp_path / "drops", "2024-01-31", JANUARY)
        write_drop(tmp_path / "drops", "2024-02-29", FEBRUARY)
        command = [sys.executable, "-c", BUILD, str(tmp_path / "drops")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        _copy(database.database, "template_trained")
        made.add("trained")
    with database.connect() as connection:
        query = "select max(known_at) from ledger.publications"
        (known_at,) = connection.execute(query).fetchone() or (None,)
    return known_at
