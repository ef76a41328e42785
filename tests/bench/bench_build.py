"""What `dbt build` costs: everything, nothing new, a few late rows, the next month.

Each run starts from the same loaded months in a database of its own, so that all its figures come
from the same rows on the same machine; the ratios are taken within a run, then the median over the
runs. Times are of a whole `dbt build` (unit tests and data tests included) as its own process;
shares and growth are of the time beyond dbt's own start-up, a build of an empty selection.

    full_s        the first build of --months months, seconds
    noop_share    a build with nothing new, of a full one; wanted: at most 0.05
    floor_share   a build, of a full one, of a project with as many models and tests that are each
                  `select 1`: what dbt itself takes for them
    late_share    after 0.1 % late rows spread over all months; wanted: at most 0.10
    month13_s     the build of the month after those
    month25_s     the same after 12 months more
    growth        month25 / month13; wanted: at most 1.3
    raw_rows      raw rows in effect at the full build
    peak_rss_mb   most memory of dbt and of the database's sessions together, shared buffers
                  (512 MB) not counted; Linux only, else of dbt alone
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "dbt_project"
sys.path.insert(0, str(ROOT))

from tests.bench.published import say, server  # noqa: E402

DROP = "timestamptz '2022-12-01' + {m} * interval '1 month'"  # month m ends at this drop's as_of
CHANCE = "(hashint8(u::bigint * 1000003 + {m} * 4001 + k * 17 + {n}) & 2147483647)"
WHEN = f"{DROP} - interval '1 month' + {CHANCE} % 2400000 * interval '1 second'"
ROWS = {  # table: columns, values, rows a user and month
    "users": (
        "user_id, signup_date, user_gender, user_is_senior, has_family, has_dependents",
        "{user}, date '2022-01-01' - u % 700, (array['Female', 'Male'])[u % 2 + 1], u % 6 = 0,"
        " u % 2 = 0, u % 3 = 0",
        1,
    ),
    "subscriptions": (
        "user_id, months_active, plan_stream_tv, plan_stream_movies, contract_type,"
        " paperless_billing, monthly_fee, total_paid, net_service",
        "{user}, {m}, u % 5 = 0, u % 7 = 0, 'One year', u % 2 = 0, 20 + u % 80,"
        " {m} * (20 + u % 80), 'DSL'",
        1,
    ),
    "labels": ("user_id, churn_label", "{user}, u % 4 = 0", 1),
    "usage": (
        "session_id, user_id, started_at, device_id, watch_minutes, skips, rebuffer_events",
        f"{{id}}, {{user}}, {WHEN}, u || '-' || {CHANCE} % 3, {CHANCE} % 1200000 / 10000.0,"
        f" {CHANCE} % 9, {CHANCE} % 4",
        5,
    ),
    "payments": (
        "payment_id, user_id, attempted_at, amount, status",
        f"{{id}}, {{user}}, {WHEN}, 20 + u % 80, (array['failed', 'succeeded', 'succeeded',"
        f" 'succeeded'])[{CHANCE} % 4 + 1]",
        1,
    ),
    "support": (
        "ticket_id, user_id, opened_at, resolved_at, category",
        f"{{id}}, {{user}}, {WHEN}, {WHEN} + {CHANCE} % 90000 * interval '1 second',"
        " (array['ticket/billing', 'complaint/playback'])[u % 2 + 1]",
        0.2,
    ),
}
EVENTS = ("usage", "payments", "support")
LATE = 0.001


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--months", type=int, default=12)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cadence", default="drops", help="drops, month, week, day or hour")
    return parser.parse_args()


def execute(*statements: str, database: str | None = None) -> list[tuple]:
    """Run statements, each for itself; the rows of the last one."""
    import psycopg

    from data.database import Database

    settings = Database()
    if database:
        settings = settings.model_copy(update={"database": database})
    found: list[tuple] = []
    with psycopg.connect(settings.conninfo(), autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement)
            found = cursor.fetchall() if cursor.description else []
    return found


def insert(table: str, select: str, load_id: int, as_of: str) -> None:
    """Rows of one load and table, as data/load/load.py would leave them."""
    execute(
        f"with added as (insert into raw.{table} ({ROWS[table][0]}, as_of, load_id, loaded_at)"
        f" select rows.*, {as_of}, {load_id}, now() from ({select}) as rows returning 1)"
        " insert into raw.loads overriding system value"
        f" select {load_id}, '{table}', {as_of}, now(), count(*), count(*), 0, '' from added"
    )


def load_months(users: int, months: range, first_load: int) -> None:
    """The drops of these months (1 ends at 2023-01-01), one load each."""
    for load_id, m in enumerate(months, first_load):
        for table, (_, values, rate) in ROWS.items():
            values = values.format(
                m=m, n=7, user="'user-' || lpad(u::text, 8, '0')", id=f"'{m}-' || u || '-' || k"
            )
            some = "" if rate >= 1 else f" where u % {round(1 / rate)} = {m} % {round(1 / rate)}"
            select = (
                f"select {values} from generate_series(1, {users}) as u,"
                f" generate_series(1, {max(1, int(rate))}) as k{some}"
            )
            insert(table, select, load_id, DROP.format(m=m))
    execute(*(f"analyze raw.{table}" for table in (*ROWS, "loads")))


def load_late(months: int, load_id: int) -> int:
    """0.1 % of the events once more as new ones, spread over all months; how many."""
    for table in EVENTS:
        key, *others = ROWS[table][0].split(", ")
        select = (
            f"select 'late-' || {key}, {', '.join(others)} from raw.{table}"
            f" where hashtext({key}) % {round(1 / LATE)} = 0"
        )
        insert(table, select, load_id, DROP.format(m=months))
    return execute(f"select sum(rows_added) from raw.loads where load_id = {load_id}")[0][0]


class Memory(threading.Thread):
    """Samples what dbt (our child) and the sessions of the server hold of their own, in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = self.peak_dbt = 0.0
        self.start()

    def run(self) -> None:
        while Path("/proc/self/status").exists():
            dbt = sessions = 0
            for status in Path("/proc").glob("[0-9]*/status"):
                with contextlib.suppress(OSError, ValueError):
                    fields = dict(
                        line.split(":", 1)
                        for line in status.read_text().splitlines()
                        if ":" in line
                    )
                    own = int(fields.get("RssAnon", "0 kB").split()[0])
                    if int(fields["PPid"]) == os.getpid():
                        dbt += int(fields.get("VmRSS", "0 kB").split()[0])
                    elif fields["Name"].strip() == "postgres":
                        port = os.environ["STREAMFLOW_PG_PORT"]
                        state = os.environ["STREAMFLOW_STATE"]
                        parent = Path(f"/proc/{fields['PPid'].strip()}/cmdline").read_text()
                        if state in parent or port in parent:
                            sessions += own
            self.peak_dbt = max(self.peak_dbt, dbt / 1024)
            self.peak = max(self.peak, (dbt + sessions) / 1024)
            time.sleep(0.2)


def dbt_build(cadence: str, *more: str, project: Path = PROJECT) -> float:
    """Seconds of one `dbt build`, which must succeed."""
    command = [sys.executable, "-m", "dbt.cli.main", "--quiet", "build", *more]
    command += ["--vars", json.dumps({"cadence": cadence})]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"dbt build failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return seconds


EMPTY = {
    "dbt_project.yml": "name: empty\nprofile: streamflow\nmodels: {+materialized: table}\n"
    "flags: {send_anonymous_usage_stats: false}\n",
    "models/model_{n}.sql": "select 1 as n",
    "tests/test_{n}.sql": "select 1 as n where false",
}


def empty_project(folder: Path) -> Path:
    """A project with as many models and data tests as ours, without a thing to do in any."""
    nodes = json.loads((Path(os.environ["DBT_TARGET_PATH"]) / "manifest.json").read_text())["nodes"]
    kinds = [node["resource_type"] for node in nodes.values()]
    counts = {"models": kinds.count("model"), "tests": kinds.count("test")}
    for name, text in EMPTY.items():
        for n in range(counts.get(name.partition("/")[0], 1)):
            file = folder / "empty" / name.format(n=n)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    shutil.copy(PROJECT / "profiles.yml", folder / "empty")
    say(f"  dbt's own time is that of {counts['models']} models and {counts['tests']} tests")
    return folder / "empty"


def appended() -> int:
    """Rows the newest publication appended."""
    return execute(
        "select sum(value::bigint) from (select * from ledger.publications order by known_at desc"
        " limit 1) as newest, jsonb_each_text(rows_appended)"
    )[0][0]


def measure(users: int, months: int, cadence: str) -> dict[str, float]:
    """One run over a copy of the loaded months."""
    build = functools.partial(dbt_build, cadence)
    execute(
        "drop database if exists streamflow with (force)",
        "create database streamflow template loaded",
        database="postgres",
    )
    start = statistics.median(build("--select", "no_such_node") for _ in range(3))
    full = build()
    say(f"  start-up {start:.2f} s, full {full:.1f} s, {appended():,} rows appended")
    noop = statistics.median(build() for _ in range(3))
    assert appended() == 0
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        empty = empty_project(Path(folder))
        kept = os.environ["DBT_TARGET_PATH"]
        stack.callback(os.environ.__setitem__, "DBT_TARGET_PATH", kept)
        os.environ["DBT_TARGET_PATH"] = str(empty / "target")
        floor = statistics.median(build(project=empty) for _ in range(3))
    say(f"  nothing new {noop:.2f} s, dbt's own {floor:.2f} s")
    late_rows = load_late(months, months + 1)
    late = build()
    say(f"  {late_rows:,} late rows {late:.2f} s, {appended():,} rows appended")
    load_months(users, range(months + 1, months + 2), months + 2)
    month13 = build()
    say(f"  month {months + 1} {month13:.1f} s, {appended():,} rows appended")
    load_months(users, range(months + 2, 2 * months + 1), months + 3)
    say(f"  {months - 1} months more {build():.1f} s, {appended():,} rows appended")
    load_months(users, range(2 * months + 1, 2 * months + 2), 2 * months + 2)
    month25 = build()
    say(f"  month {2 * months + 1} {month25:.1f} s, {appended():,} rows appended")
    return {
        "full_s": full,
        "noop_share": (noop - start) / (full - start),
        "floor_share": (floor - start) / (full - start),
        "late_share": (late - start) / (full - start),
        "month13_s": month13,
        "month25_s": month25,
        "growth": (month25 - start) / (month13 - start),
        "startup_s": start,
        "noop_s": noop,
        "late_s": late,
    }


def main() -> None:
    options = arguments()
    folder = Path(tempfile.mkdtemp(prefix="streamflow-bench-"))
    folder.chmod(0o755)
    with server(folder):
        from data.database import Database
        from data.postgres.server import EmbeddedServer
        from data.postgres.setup import set_up

        EmbeddedServer().create_database()
        set_up(Database())
        load_months(options.users, range(1, options.months + 1), 1)
        execute("vacuum analyze")
        (raw_rows,) = execute("select sum(rows_added) from raw.loads")[0]
        say(f"{options.users:,} users x {options.months} months: {raw_rows:,} raw rows")
        execute("alter database streamflow rename to loaded", database="postgres")
        memory = Memory()
        runs = []
        for number in range(1, options.runs + 1):
            say(f"run {number} of {options.runs}")
            runs.append(measure(options.users, options.months, options.cadence))
    shutil.rmtree(folder, ignore_errors=True)
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    dbt = children / (1024 if sys.platform != "darwin" else 1024**2)
    figures: dict[str, float] = {
        key: round(statistics.median(run[key] for run in runs), 4) for key in runs[0]
    }
    figures["raw_rows"] = int(raw_rows)
    figures["peak_rss_mb"] = round(memory.peak or dbt)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
