"""Published tables with synthetic rows on a server of their own, for the benchmarks."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

VIEWS = {
    "user_features": {
        "user_gender": "text", "is_senior": "boolean", "has_family": "boolean",
        "has_dependents": "boolean", "tenure_days": "bigint",
    },
    "subscription_features": {
        "months_active": "bigint", "monthly_fee": "double precision",
        "total_paid": "double precision", "paperless_billing": "boolean",
        "plan_stream_tv": "boolean", "plan_stream_movies": "boolean", "net_service": "text",
        "contract_type": "text",
    },
    "usage_features": {
        "watch_hours_30d": "double precision", "avg_session_mins_7d": "double precision",
        "unique_devices_30d": "bigint", "skips_7d": "bigint", "rebuffer_events_7d": "bigint",
        "active_days_30d": "bigint", "days_since_last_session": "bigint",
        "watch_hours_trend_30d": "double precision",
    },
    "payment_features": {
        "failed_payments_90d": "bigint", "paid_amount_90d": "double precision",
        "days_since_last_failed_payment": "bigint",
    },
    "support_features": {
        "support_tickets_90d": "bigint", "ticket_avg_resolution_hrs_90d": "double precision",
        "open_tickets": "bigint", "complaints_90d": "bigint",
    },
}  # fmt: skip
VALUES = {
    "double precision": "hashint8(u * 31 + m * 7 + {n}) / 1000.0",
    "bigint": "case when (u + {n}) % 20 = 0 then null else abs(hashint8(u + m + {n})) % 400 end",
    "boolean": "(u + m + {n}) % 3 = 0",
    "text": "(array['none', 'fiber', 'dsl', 'cable'])[(u + {n}) % 4 + 1]",
}
UTC = timezone.utc
END = datetime(2030, 1, 1, tzinfo=UTC)


@contextlib.contextmanager
def server(folder: Path) -> Iterator[None]:
    """A server of our own, with the project's settings, in a folder that goes away."""
    from data.postgres.server import EmbeddedServer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in [name for name in os.environ if name.startswith(("STREAMFLOW_", "DBT_", "PG"))]:
        del os.environ[name]
    os.environ |= {
        "STREAMFLOW_PG_PORT": str(port),
        "STREAMFLOW_STATE": str(folder / "state"),
        "DBT_TARGET_PATH": str(folder / "target"),
        "DBT_LOG_PATH": str(folder / "logs"),
    }
    running = EmbeddedServer()
    running.start()
    try:
        yield
    finally:
        running.stop("immediate")
        shutil.rmtree(running.home, ignore_errors=True)
        shutil.rmtree(running.socket, ignore_errors=True)


def make_tables(database: str, views: dict, users: int, months: int) -> None:
    """Published tables of `months` as_of's in a database of their own, which is then used."""
    from data.database import Database
    from data.postgres.server import EmbeddedServer
    from data.postgres.setup import set_up
    from tests.feast.offline import Offline

    os.environ["STREAMFLOW_PG_DATABASE"] = database
    EmbeddedServer().create_database()
    settings = Database()
    set_up(settings)
    offline = Offline(settings, Path(os.environ["DBT_TARGET_PATH"]))
    offline.define(views)
    known_at = offline.publish({})
    with settings.connect() as connection:
        for name, columns in views.items():
            values = ", ".join(
                VALUES[kind].format(n=number) for number, kind in enumerate(columns.values())
            )
            connection.execute(
                f"insert into features.{name} (user_id, as_of, known_at, is_retracted,"
                f" {', '.join(columns)}) select 'user-' || lpad(u::text, 8, '0'),"
                f" timestamptz '2024-01-01' + m * interval '1 month', '{known_at}', false, {values}"
                f" from generate_series(0, {months - 1}) as m, generate_series(1, {users}) as u"
            )
            connection.execute(f"create index on features.{name} (as_of, known_at)")
    with contextlib.closing(settings.connect()) as connection:
        connection.autocommit = True
        connection.execute("vacuum analyze")
    say(f"{database}: {len(views)} views x {months} months x {users:,} users")


def change(views: dict, thousandths: int = 1) -> None:
    """A publication in which every 1000th user of the newest as_of has other values."""
    from data.database import Database

    with Database().connect() as connection:
        known_at = connection.execute(
            "insert into ledger.builds (known_at, invocation_id, status, load_from, load_to,"
            " recompute) select max(known_at) + interval '1 hour', gen_random_uuid()::text,"
            " 'published', 0, 0, false from ledger.builds returning known_at"
        ).fetchone()[0]
        for name, columns in views.items():
            changed = ", ".join(
                f"{column} + 1" if kind in ("bigint", "double precision") else column
                for column, kind in columns.items()
            )
            connection.execute(
                f"insert into features.{name} (user_id, as_of, known_at, is_retracted,"
                f" {', '.join(columns)}) select user_id, as_of, %s, false, {changed}"
                f" from published.{name}_newest"
                f" where right(user_id, 3)::int < %s",
                [known_at, thousandths],
            )
        connection.execute(
            "insert into ledger.publications (known_at, invocation_id, code_version, load_to,"
            " cadence, rows_appended, definitions, tests_run) select known_at, invocation_id,"
            " 'bench', 0, 'drops', '{}', '{}', 0 from ledger.builds where known_at = %s",
            [known_at],
        )


def newest(name: str, end: datetime) -> str:
    return (
        f"select distinct on (user_id) * from published.{name} where as_of ="
        f" (select max(as_of) from features.{name} where as_of <= '{end.isoformat()}')"
        f" order by user_id, known_at desc"
    )


def floor_tables(views: dict) -> None:
    """What one would write by hand, and the relation `change` takes its users from."""
    from data.database import Database

    with Database().connect() as connection:
        connection.execute("create schema floor")
        for name in views:
            connection.execute(f"create view published.{name}_newest as {newest(name, END)}")
            connection.execute(f"create table floor.{name} (like online.{name} including all)")


def checkpoint() -> None:
    """So that nobody pays for what another one wrote."""
    from data.database import Database

    with contextlib.closing(Database().connect()) as connection:
        connection.autocommit = True
        connection.execute("checkpoint")


def ours():
    from feast import FeatureStore

    from streamflow_feast.dbt.feast_objects import apply_definitions

    store = FeatureStore(repo_path=str(ROOT / "feature_repo"))
    apply_definitions(store)
    return store


def stock(folder: Path):
    """Stock Feast with its own Postgres stores, over the same published tables."""
    from feast import FeatureStore, RepoConfig

    from data.database import Database
    from streamflow_feast.dbt.feast_objects import apply_definitions

    settings = Database()
    with settings.connect() as connection:
        connection.execute("create schema if not exists stock")
    place = {
        "type": "postgres",
        "host": settings.host,
        "port": settings.port,
        "database": settings.database,
        "db_schema": "stock",
        "user": settings.user,
        "password": settings.password.get_secret_value(),
        "sslmode": "disable",
    }
    store = FeatureStore(
        config=RepoConfig(
            project="stock",
            provider="local",
            registry=str(folder / "stock.db"),
            offline_store=place,
            online_store=place,
            entity_key_serialization_version=3,
        )
    )
    apply_definitions(store)
    return store


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        work()
    return time.perf_counter() - began


def say(line: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {line}", flush=True)


def quiet(work: Callable[[], object]) -> object:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return work()


def peak_rss() -> float:
    """Of this process, in MB. (On Linux ru_maxrss would include the process that started it.)"""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / 1024  # macOS: bytes
