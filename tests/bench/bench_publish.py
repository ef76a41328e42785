"""Publishing online, against stock Feast 0.67 and against the same INSERT ... SELECT by hand.

All three on one server and the same published tables, alternating; medians of the rounds. The
tables are synthetic, with the columns of the project's feature views. Last line: one JSON object.

A full publish is the monthly one: the next as_of of every user replaces what is online. The
first fill of empty tables is faster, for all three; it is under `detail`.

    entities_per_s         users x views / seconds of a full `materialize_incremental`
    stock_entities_per_s   the same for stock Feast into its own Postgres online store
    ratio_vs_stock         wanted: at least 30
    ratio_vs_floor         seconds / seconds of the plain SQL; wanted: at most 1.5
    delta_share            after 0.1 % changed, of a full publish; wanted: at most 0.03
    audit_share            the audit, of a full publish; wanted: at most 0.10
    peak_rss_mb            of a process that publishes --big-users x views; wanted: below 300
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
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


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--views", type=int, default=5, choices=range(1, 6))
    parser.add_argument("--months", type=int, default=12, help="at least 2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stock-rounds", type=int, default=3, help="0 leaves stock Feast out")
    parser.add_argument("--big-users", type=int, default=1_000_000, help="0 leaves this out")
    parser.add_argument("--publish-once", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


@contextlib.contextmanager
def server(folder: Path) -> Iterator[None]:
    """A server of our own, with the project's settings, in a folder that goes away."""
    from data.postgres.server import EmbeddedServer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in [name for name in os.environ if name.startswith(("STREAMFLOW_", "DBT_"))]:
        del os.environ[name]
    os.environ |= {
        "STREAMFLOW_PG_PORT": str(port),
        "STREAMFLOW_STATE": str(folder / "state"),
        "DBT_TARGET_PATH": str(folder / "target"),
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


def floor(views: dict, end: datetime) -> None:
    """In one transaction: write the newest as_of up to `end`, delete who is not in it."""
    from data.database import Database

    with Database().connect() as connection:
        for name, columns in views.items():
            listed = ", ".join([*columns, "as_of", "known_at"])
            excluded = ", ".join(f"excluded.{column}" for column in [*columns, "as_of", "known_at"])
            connection.execute(
                f"insert into floor.{name} (user_id, {listed}, published_at)"
                f" select user_id, {listed}, now() from ({newest(name, end)}) as newest"
                f" where not is_retracted on conflict (user_id) do update"
                f" set ({listed}, published_at) = row({excluded}, excluded.published_at)"
            )
            connection.execute(
                f"delete from floor.{name} where as_of <"
                f" (select max(as_of) from features.{name} where as_of <= %s)",
                [end],
            )


def empty(views: dict, schema: str) -> None:
    """Empty online tables, as before the first run."""
    from data.database import Database

    with Database().connect() as connection:
        for name in views:
            connection.execute(f"truncate {schema}.{name}")
        if schema == "online":
            connection.execute("truncate ledger.materializations")
    checkpoint()


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


def big_run(views: dict, users: int, count: int) -> float:
    """Peak resident megabytes of a process that publishes `users` of each view."""
    make_tables("big", views, users, 1)
    quiet(ours)
    command = [sys.executable, __file__, "--publish-once", "--views", str(count)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, rss = json.loads(output.splitlines()[-1])
    say(f"{users:,} users: {users * count / seconds:,.0f} entities/s, peak {rss:.0f} MB")
    return rss


def quiet(work: Callable[[], object]) -> object:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return work()


def publish_once() -> None:
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(ROOT / "feature_repo"))
    seconds = timed(lambda: store.materialize_incremental(END))
    print(json.dumps([seconds, peak_rss()]))


def peak_rss() -> float:
    """Of this process, in MB. (On Linux ru_maxrss would include the process that started it.)"""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / 1024  # macOS: bytes


def measure(asked: argparse.Namespace, views: dict, folder: Path) -> dict[str, list[float]]:
    from streamflow_feast.materialize.audit import audit

    store = quiet(ours)
    floor_tables(views)
    other = quiet(lambda: stock(folder)) if asked.stock_rounds else None
    took: dict[str, list[float]] = {}

    def note(what: str, work: Callable[[], object]) -> None:
        took.setdefault(what, []).append(timed(work))
        say(f"{what}: {took[what][-1]:.3f} s")

    last = datetime(2024 + (asked.months - 1) // 12, (asked.months - 1) % 12 + 1, 1, tzinfo=UTC)
    before = last - timedelta(days=1)
    for number in range(max(asked.rounds, asked.stock_rounds)):
        if number < asked.rounds:
            empty(views, "online")
            note("first fill", lambda: store.materialize_incremental(before))
            checkpoint()
            note("full", lambda: store.materialize_incremental(END))
            note("audit", audit)
            change(views)
            note("delta", lambda: store.materialize_incremental(END))
            audit()
            empty(views, "floor")
            note("floor first fill", lambda: floor(views, before))
            checkpoint()
            note("floor", lambda: floor(views, END))
        if number < asked.stock_rounds:
            if number == 0:
                note("stock first fill", lambda: other.materialize(before, END))
            checkpoint()  # stock Feast replaces rows by rows of the same or an older month, too
            note("stock", lambda: other.materialize(before, END))
    return took


def main() -> None:
    asked = arguments()
    if asked.publish_once:
        publish_once()
        return
    views = dict(list(VIEWS.items())[: asked.views])
    folder = Path(tempfile.mkdtemp(prefix="streamflow-bench-"))
    folder.chmod(0o755)
    rss = None
    try:
        with server(folder):
            make_tables("bench", views, asked.users, asked.months)
            took = measure(asked, views, folder)
            if asked.big_users:
                rss = big_run(views, asked.big_users, asked.views)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    middle = {what: statistics.median(seconds) for what, seconds in took.items()}
    entities = asked.users * asked.views
    result = {
        "entities_per_s": round(entities / middle["full"]),
        "stock_entities_per_s": round(entities / middle["stock"]) if "stock" in middle else None,
        "ratio_vs_stock": round(middle["stock"] / middle["full"], 1) if "stock" in middle else None,
        "ratio_vs_floor": round(middle["full"] / middle["floor"], 2),
        "delta_share": round(middle["delta"] / middle["full"], 4),
        "audit_share": round(middle["audit"] / middle["full"], 4),
        "peak_rss_mb": None if rss is None else round(rss),
        "detail": {
            **{key: getattr(asked, key) for key in ("users", "views", "months", "big_users")},
            "seconds": {what: [round(s, 3) for s in values] for what, values in took.items()},
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
