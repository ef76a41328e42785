"""What years cost: storage, builds, vacuum and look-ups of a history of daily as_of's, by its age.

A small population, monthly drops with late and corrected rows, one build a month with the calendar
of days. Then the ledger's stamps are moved apart as if each month had been built when it ended, and
the history is pruned. One JSON object; sizes are bytes, times seconds.

    years      after each: bytes of raw rows and of versions (heap, indexes), versions, seconds of
               a month's build, of a vacuum of the largest table, of 20,000 point-in-time look-ups
    pruned     bytes and versions left with each KEEP, as files are after the space was given back
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SIZES = """
select sum(pg_relation_size(c.oid))::bigint, sum(pg_indexes_size(c.oid))::bigint,
    sum(reltuples)::bigint
from pg_class as c where relnamespace = %s::regnamespace and relkind = 'r'
"""
LOOK_UPS = """
select count(watch_hours_30d) from (
    select user_id, timestamptz '2024-03-01' + random() * interval '{days} days' as at
    from published.user_features_latest order by random() limit 20000
) as asked
left join lateral (
    select watch_hours_30d from features.{table} as v
    where v.user_id = asked.user_id and v.as_of <= asked.at
    order by as_of desc, known_at desc limit 1
) as found on true
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--years", type=int, default=5)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="streamflow-years-"))
    folder.chmod(0o755)
    from tests.conftest import _free_port

    os.environ |= {
        "STREAMFLOW_PG_PORT": str(_free_port()), "STREAMFLOW_STATE": str(folder / "state"),
        "DBT_TARGET_PATH": str(folder / "target"), "DBT_LOG_PATH": str(folder / "logs"),
    }  # fmt: skip
    from data.__main__ import main as data
    from data.postgres.server import EmbeddedServer

    assert not data(["up"])
    server = EmbeddedServer()
    try:
        print(json.dumps(measure(folder, options.users, options.years)))
    finally:
        server.stop("immediate")
        shutil.rmtree(server.home, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


def measure(folder: Path, users: int, years: int) -> dict[str, Any]:
    from data.__main__ import main as data
    from orchestration import steps

    months = 12 * years
    arguments = ["--users", str(users), "--months", str(months), "--to", str(folder / "drops")]
    assert not data(["generate", *arguments])
    found: dict[str, Any] = {"users": users, "years": []}
    seconds: list[float] = []
    for number, drop in enumerate(sorted((folder / "drops").iterdir()), start=1):
        steps.ingest(drop, show=lambda line: None)
        began = time.perf_counter()
        steps.build(show=lambda line: None, cadence="day", allow_leaving=users)
        seconds.append(time.perf_counter() - began)
        print(f"{drop.name} {seconds[-1]:.1f} s", file=sys.stderr, flush=True)
        if number % 12 == 0:
            found["years"].append(year(number, seconds[-6:]))
    move_apart(months)
    found["pruned"] = [pruned(keep) for keep in ("2years", "1year", "90days")]
    found["partitioned"] = partitioned(months)
    return found


def connect() -> Any:
    from data.database import Database

    connection = Database().connect()
    connection.autocommit = True
    return connection


def sizes(connection: Any) -> dict[str, Any]:
    connection.execute("vacuum analyze")
    of = {}
    for schema in ("raw", "features", "ledger"):
        heap, indexes, rows = connection.execute(SIZES, [schema]).fetchone()
        of[schema] = {"heap": heap, "indexes": indexes, "rows": rows}
    return of


def timed(connection: Any, statement: str, times: int = 3) -> float:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        connection.execute(statement)
        took.append(time.perf_counter() - began)
    return round(statistics.median(took), 4)


def year(months: int, builds: list[float]) -> dict[str, Any]:
    """What a history of so many months is like."""
    with connect() as connection:
        of = sizes(connection)
        return {
            "months": months,
            "build_s": round(statistics.median(builds), 2),
            "vacuum_s": timed(connection, "vacuum features.usage_features"),
            "look_up_20000_s": timed(
                connection, LOOK_UPS.format(days=28 * months, table="usage_features")
            ),
            **of,
        }


def move_apart(months: int) -> None:
    """Each publication a month after the one before, the newest now."""
    with connect() as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute(
            "create temp table moved as select known_at as was, date_trunc('second', now())"
            " - (count(*) over () - row_number() over (order by known_at)) * interval '30.4 days'"
            " as known_at from ledger.publications"
        )
        tables = connection.execute(
            "select format('features.%I', relname) from pg_class"
            " where relnamespace = 'features'::regnamespace and relkind = 'r'"
        ).fetchall()
        for name in ["ledger.builds", "ledger.publications", *(t for (t,) in tables)]:
            connection.execute(
                f"update {name} as t set known_at = moved.known_at from moved"
                " where t.known_at = was"
            )
            connection.execute(f"vacuum full {name}")


def pruned(keep: str) -> dict[str, Any]:
    from orchestration.upkeep.prune import duration, prune

    began = time.perf_counter()
    done = prune(duration(keep))
    seconds = time.perf_counter() - began
    with connect() as connection:
        connection.execute("vacuum full analyze")
        return {
            "keep": keep, "seconds": round(seconds, 2), "removed": dict(done.removed),
            "answers_from": str(done.answers[1]), **sizes(connection),
        }  # fmt: skip


def partitioned(months: int) -> dict[str, Any]:
    """The largest table as it is, beside one of a partition a year: a month's versions more, a
    vacuum, look-ups, and letting go of the oldest year."""
    with connect() as connection:
        connection.execute(
            "create table features.plain (like features.usage_features including all);"
            "create table features.parts (like features.usage_features including all)"
            " partition by range (as_of)"
        )
        for number in range(2023, 2024 + months // 12 + 1):
            connection.execute(
                f"create table features.parts_{number} partition of features.parts"
                f" for values from ('{number}-01-01') to ('{number + 1}-01-01')"
            )
        found: dict[str, Any] = {}
        for table in ("plain", "parts"):
            name = f"features.{table}"
            connection.execute(f"insert into {name} select * from features.usage_features")
            connection.execute(f"vacuum analyze {name}")
            newest = "(select max(as_of) - interval '30 days' from features.usage_features)"
            append = (
                f"insert into {name} select * from features.usage_features where as_of > {newest}"
                " on conflict do nothing"
            )
            connection.execute(f"delete from {name} where as_of > {newest}")
            found[table] = {
                "append_month_s": timed(connection, append, 1),
                "vacuum_s": timed(connection, f"vacuum {name}"),
                "look_up_20000_s": timed(
                    connection, LOOK_UPS.format(days=28 * months, table=table)
                ),
                "delete_first_year_s": timed(
                    connection,
                    f"delete from {name} where as_of < timestamptz '2025-01-01'"
                    if table == "plain"
                    else "drop table features.parts_2024",
                    1,
                ),
            }
        return found


if __name__ == "__main__":
    main()
