"""Training sets against stock Feast 0.67, the same look-ups by hand, DuckDB and Polars.

One server, one run: versioned feature tables of --users x 12 months, one pair in ten corrected
once, and a second database with the twelve months before as well. Every retrieval asks for all
features of five views, for users and instants drawn at random in the newest twelve months; the
kinds of retrieval alternate. Last line: one JSON object.

    rows_per_s        entity rows / seconds of get_historical_features(...).to_arrow(), ours
    stock_rows_per_s  the same call with Feast's own Postgres store, whose values are compared
    ratio_vs_stock    wanted: at least 12
    ratio_vs_floor    seconds / seconds of the LATERAL query by hand, frame in and result out by
                      COPY, its bytes not looked at; wanted: at most 1.5
    history_growth    seconds with twice the history / seconds before; wanted: at most 1.2
    ratio_vs_duckdb   seconds of DuckDB's ASOF joins over the same versions, from Parquet to Arrow
                      with two threads / ours; wanted: at least 1.5
    ratio_vs_polars   the same with Polars' join_asof; wanted: at least 1.5
    million_s         seconds of --million entity rows, to_arrow, in a process of its own
    million_rss_mb    peak memory of that process, frame included; wanted: below 1500
    million_ratio_vs_duckdb   seconds of DuckDB in a process of its own / ours; wanted: at least 1
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import psycopg  # noqa: E402
import pyarrow as pa  # noqa: E402
from feast import (  # noqa: E402
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    RepoConfig,
    ValueType,
)
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (  # noqa: E402
    PostgreSQLSource,
)
from feast.types import Bool, Float64, Int64, String  # noqa: E402

from tests.bench import columnar  # noqa: E402
from tests.bench.published import VIEWS, peak_rss, server  # noqa: E402

MONTHS = 12
FIRST = datetime(2024, 1, 1, tzinfo=timezone.utc)
FEAST_TYPES = {"text": String, "boolean": Bool, "bigint": Int64, "double precision": Float64}
VALUES = {
    "double precision": "abs(hashint8(u * 31 + m * 7 + {n} + c)) / 37.0::double precision",
    "bigint": "case when (u + {n}) % 20 = 0 then null else abs(hashint8(u + m + {n})) % 400 end",
    "boolean": "(u + m + {n}) % 3 = 0",
    "text": "(array['none', 'fiber', 'dsl', 'cable'])[(u + {n}) % 4 + 1]",
}
TWICE = "bench_twice"  # the database with twice the history
OURS = {"type": "streamflow_feast.offline.store.StreamflowOfflineStore"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=100_000, help="entity rows")
    parser.add_argument("--million", type=int, default=1_000_000, help="0 leaves this out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stock-rounds", type=int, default=2, help="0 leaves stock Feast out")
    parser.add_argument("--once", nargs=2, metavar=("FOLDER", "FORM"), help=argparse.SUPPRESS)
    return parser.parse_args()


def say(text: str) -> None:
    print(text, flush=True)


def connect(**settings: str) -> psycopg.Connection:
    from data.database import Database

    connection = Database(**settings).connect()
    connection.autocommit = True
    return connection


def make_tables(users: int) -> None:
    """The project's tables, indexes and views as dbt makes them, with the newest twelve months."""
    from data.database import Database
    from data.postgres.server import EmbeddedServer
    from data.postgres.setup import set_up

    EmbeddedServer().create_database()
    set_up(Database())
    with connect() as connection:
        known_at = FIRST + timedelta(days=1000)
        connection.execute(
            "insert into ledger.builds (known_at, invocation_id, status, load_from, load_to,"
            " recompute) values (%s, 'bench', 'published', 0, 0, false)",
            [known_at],
        )
        connection.execute(
            "insert into ledger.publications (known_at, invocation_id, code_version, load_to,"
            " cadence, rows_appended, definitions, tests_run)"
            " values (%s, 'bench', '', 0, 'drops', '{}', '{}', 0)",
            [known_at],
        )
        for name, columns in VIEWS.items():
            features = ", ".join(f"{column} {kind}" for column, kind in columns.items())
            connection.execute(
                f"create table features.{name} (user_id text, as_of timestamptz, known_at"
                f" timestamptz, is_retracted boolean not null, {features})"
            )
            connection.execute(
                f"create view published.{name} as select * from features.{name}"
                " where known_at <= (select max(known_at) from ledger.publications)"
            )
    add_history(users, range(MONTHS), Database().database)
    with connect() as connection:
        for name in VIEWS:
            table = f"features.{name}"
            connection.execute(f"alter table {table} add primary key (user_id, as_of, known_at)")
            connection.execute(f"create index on {table} using brin (known_at)")
            connection.execute(f"create index on {table} (as_of, known_at)")
        connection.execute("vacuum analyze")
    with connect(database="postgres") as connection:
        connection.execute(f"create database {TWICE} template {Database().database}")
    add_history(users, range(-MONTHS, 0), TWICE)


def add_history(users: int, months: range, database: str) -> None:
    """A version a user and month, and a correction of one in ten, in the order builds append."""
    with connect(database=database) as connection:
        for name, columns in VIEWS.items():
            for month in months:
                for correction in (0, 1):
                    values = ", ".join(
                        VALUES[kind].format(n=n).replace("+ c)", f"+ {correction})")
                        for n, kind in enumerate(columns.values())
                    )
                    connection.execute(
                        f"insert into features.{name} select 'user-' || lpad(u::text, 8, '0'),"
                        " %(as_of)s, %(known_at)s, false, " + values.replace("%", "%%") + " from"
                        " (select u, %(month)s as m from generate_series(1, %(users)s) as u) as x"
                        " where %(correction)s = 0 or u %% 10 = 0",
                        {
                            "as_of": as_of(month),
                            "known_at": as_of(month) + timedelta(days=1 + 20 * correction),
                            "month": month,
                            "users": users,
                            "correction": correction,
                        },
                    )
        connection.execute("vacuum analyze")


def as_of(month: int) -> datetime:
    return FIRST + month * timedelta(days=30)


def draw_frame(rows: int, users: int) -> pd.DataFrame:
    """Random users at random instants of the newest twelve months, with a label."""
    random = np.random.default_rng(rows)
    seconds = random.integers(0, MONTHS * 30 * 86_400, rows)
    return pd.DataFrame(
        {
            "user_id": [f"user-{n:08d}" for n in random.integers(1, users + 1, rows)],
            "event_timestamp": pd.Timestamp(FIRST) + pd.to_timedelta(seconds, unit="s"),
            "row": np.arange(rows),
            "churned": random.random(rows) < 0.2,
        }
    )


def store(folder: Path, offline_store: dict) -> FeatureStore:
    """A FeatureStore over the registry in `folder`."""
    return FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            offline_store=offline_store,
            entity_key_serialization_version=3,
        )
    )


def stores(folder: Path) -> dict[str, FeatureStore]:
    """Ours on both histories, and stock Feast's, over the same registry."""
    from data.database import Database

    settings = Database()
    stock = {
        "type": "postgres",
        "host": settings.host,
        "port": settings.port,
        "database": settings.database,
        "user": settings.user,
        "password": settings.password.get_secret_value(),
        "sslmode": settings.sslmode,
    }
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    views = [
        FeatureView(
            name=name,
            entities=[user],
            ttl=timedelta(0),
            schema=[
                Field(name="user_id", dtype=String),
                *(Field(name=column, dtype=FEAST_TYPES[kind]) for column, kind in columns.items()),
            ],
            source=PostgreSQLSource(
                name=name,
                table=f"published.{name}",
                timestamp_field="as_of",
                created_timestamp_column="known_at",
            ),
            online=False,
        )
        for name, columns in VIEWS.items()
    ]
    made = {
        "ours": store(folder, OURS),
        "stock": store(folder, stock),
        "twice": store(folder, {**OURS, "database": TWICE}),
    }
    made["ours"].apply([user, *views, FeatureService(name="all", features=views)])
    return made


def retrieve(of: FeatureStore, frame: pd.DataFrame) -> pa.Table:
    service = of.get_feature_service("all")
    return of.get_historical_features(frame, service).to_arrow()


def by_hand(frame: pd.DataFrame) -> None:
    """What one would write for just this: no versions to choose from but by order and limit."""
    columns = ", ".join(f"{view}.{column}" for view, names in VIEWS.items() for column in names)
    joins = " ".join(
        f"left join lateral (select {', '.join(names)} from features.{view}"
        " where user_id = frame.user_id and as_of <= frame.event_timestamp"
        f" order by as_of desc, known_at desc limit 1) {view} on true"
        for view, names in VIEWS.items()
    )
    with connect() as connection, connection.transaction():
        connection.execute(
            'create temp table frame (user_id text, event_timestamp timestamptz, "row" bigint,'
            " churned boolean) on commit drop"
        )
        with connection.cursor().copy("copy frame from stdin (format csv)") as copy:
            for start in range(0, len(frame), 100_000):
                part = frame.iloc[start : start + 100_000]
                copy.write(part.to_csv(header=False, index=False))
        query = f"select frame.*, {columns} from frame {joins}"
        with connection.cursor().copy(f"copy ({query}) to stdout (format csv)") as copy:
            while copy.read():
                pass


def seconds(of: Callable[[], object]) -> float:
    start = time.perf_counter()
    of()
    return time.perf_counter() - start


def same_values(ours: pa.Table, others: pa.Table, whose: str) -> None:
    """The others give their rows in any order, and stock drops the zone of the instants."""
    names = [name for name in ours.column_names if name != "event_timestamp"]
    assert ours.column_names == others.column_names
    left, right = (t.select(names).sort_by("row").combine_chunks() for t in (ours, others))
    for name in names:
        column = right.column(name).cast(left.column(name).type)
        assert left.column(name).equals(column), f"{name} differs from {whose}"


def once(options: argparse.Namespace) -> None:
    """In a process of its own: one retrieval, its seconds and the process' peak memory."""
    folder, form = Path(options.once[0]), options.once[1]
    frame = draw_frame(options.million, options.users)
    if form == "duckdb":
        took = seconds(lambda: columnar.duckdb_asof(folder, VIEWS, frame))
    else:
        of = store(folder, OURS)
        service = of.get_feature_service("all")
        to = (lambda job: job.to_df()) if form == "df" else (lambda job: job.to_arrow())
        took = seconds(lambda: to(of.get_historical_features(frame, service)))
    print(json.dumps({"seconds": took, "rss_mb": peak_rss()}))


def in_own_process(options: argparse.Namespace, folder: Path, form: str) -> dict[str, float]:
    command = [
        sys.executable, __file__, "--users", str(options.users),
        "--million", str(options.million), "--once", str(folder), form,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    os.environ["POLARS_MAX_THREADS"] = str(columnar.THREADS)  # read when it is imported
    options = arguments()
    if options.once:
        once(options)
        return
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        folder.chmod(0o755)
        stack.enter_context(server(folder))
        print(json.dumps(measure(options, folder)))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """All figures."""
    say(f"making {options.users:,} users x {MONTHS} months x {len(VIEWS)} views ...")
    make_tables(options.users)
    of = stores(folder)
    with connect() as connection:
        columnar.export(connection, VIEWS, folder)
    frame = draw_frame(options.rows, options.users)
    kinds = ("ours", "twice", "floor", "duckdb", "polars", "stock")
    took: dict[str, list[float]] = {kind: [] for kind in kinds}
    result = retrieve(of["ours"], frame)  # warms the caches
    assert retrieve(of["twice"], frame).equals(result), "older months changed the answer"
    for number in range(max(options.rounds, options.stock_rounds)):
        if number < options.rounds:
            took["ours"].append(seconds(lambda: retrieve(of["ours"], frame)))
            took["twice"].append(seconds(lambda: retrieve(of["twice"], frame)))
            took["floor"].append(seconds(lambda: by_hand(frame)))
            for kind, join in (("duckdb", columnar.duckdb_asof), ("polars", columnar.polars_asof)):
                start = time.perf_counter()
                found = join(folder, VIEWS, frame)
                took[kind].append(time.perf_counter() - start)
                same_values(result, found, kind)
        if number < options.stock_rounds:
            start = time.perf_counter()
            of_stock = retrieve(of["stock"], frame)
            took["stock"].append(time.perf_counter() - start)
            same_values(result, of_stock, "stock Feast")
        say("  ".join(f"{name} {runs[-1]:.2f} s" for name, runs in took.items() if runs))
    million: dict[str, dict[str, float]] = {}
    if options.million:
        forms = ("arrow", "duckdb") * 3 + ("df",)
        runs = [(form, in_own_process(options, folder, form)) for form in forms]
        for kind in dict.fromkeys(forms):
            of_kind = [run for form, run in runs if form == kind]
            million[kind] = {
                "seconds": statistics.median(run["seconds"] for run in of_kind),
                "rss_mb": max(run["rss_mb"] for run in of_kind),
            }
        say(f"{options.million:,} rows: {million}")
    median = {name: statistics.median(runs) for name, runs in took.items() if runs}
    return {
        "rows_per_s": round(options.rows / median["ours"]),
        "stock_rows_per_s": round(options.rows / median["stock"]) if "stock" in median else None,
        "ratio_vs_stock": round(median["stock"] / median["ours"], 1) if "stock" in median else None,
        "ratio_vs_floor": round(median["ours"] / median["floor"], 2),
        "history_growth": round(median["twice"] / median["ours"], 2),
        "ratio_vs_duckdb": round(median["duckdb"] / median["ours"], 2),
        "ratio_vs_polars": round(median["polars"] / median["ours"], 2),
        "million_s": round(million["arrow"]["seconds"], 1) if million else None,
        "million_rss_mb": round(million["arrow"]["rss_mb"]) if million else None,
        "million_ratio_vs_duckdb": round(
            million["duckdb"]["seconds"] / million["arrow"]["seconds"], 2
        ) if million else None,
        "detail": {
            "users": options.users, "months": MONTHS, "entity_rows": options.rows,
            "million_rows": options.million, "views": len(VIEWS),
            "features": sum(map(len, VIEWS.values())),
            "million": million, "seconds": took,
        },
    }  # fmt: skip


if __name__ == "__main__":
    main()
