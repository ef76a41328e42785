"""What the whole path costs on Spark, and how it grows with the number of users.

Each size is a process of its own with an empty lake and an empty Postgres: drops of --months months
are generated, loaded and built; then the next month; then everything goes online, is audited, and a
training set of every snapshot is written.

    <step>_s       seconds of generate, load, build, next_load, next_build, materialize, audit and
                   training
    <step>_cpu_s   processor seconds of the Java and of Python (not of Postgres) in it, which do
                   not depend on what else the machine does
    rows           raw rows of all drops
    shuffle_mb     what Spark's tasks wrote for each other, of all steps together
    peak_mb        most memory of the Java and of Python, added
    growth         processor seconds a user of build and next_build, against the size before;
                   wanted: <= 1.2

    make bench-spark ARGS="--sizes 10000 100000 1000000"
    make bench-spark ARGS="--sizes 10000 --master 'local-cluster[2,1,2048]'"
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def measured(users: int, months: int) -> dict[str, Any]:
    """All steps for one size, in this process."""
    from tests.spark.equal import peak_mb, scratch

    found: dict[str, Any] = {"users": users, "months": months}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began, used = time.monotonic(), processor_seconds()
        yield
        found[f"{name}_s"] = round(time.monotonic() - began, 1)
        found[f"{name}_cpu_s"] = round(processor_seconds() - used, 1)
        told = f"{name} {found[f'{name}_s']} s, {found[f'{name}_cpu_s']} s of processors"
        print(f"  {users:,} users: {told}", file=sys.stderr, flush=True)

    with scratch() as folder:
        os.environ |= {"STREAMFLOW_TARGET": "spark", "STREAMFLOW_LAKE": str(folder / "lake")}
        os.environ["DBT_TARGET_PATH"] = str(folder / "target")
        from data.lake.load import load
        from data.lake.session import session
        from data.sample.generate import Plan, generate
        from orchestration import steps
        from streamflow_feast.training.training_set import write_training_set

        with timed("generate"):
            drops = generate(folder / "drops", Plan(users=users, months=months + 1))
        with timed("load"):
            loads = [load(drop) for drop in drops[:-1]]
        with timed("build"):
            steps.build(show=lambda line: None)
        with timed("next_load"):
            loads.append(load(drops[-1]))
        with timed("next_build"):
            steps.build(show=lambda line: None)
        with timed("materialize"):
            steps.apply()
            steps.materialize()
        with timed("audit"):
            steps.audit()
        with timed("training"):
            made = write_training_set("2000-01-01..2100-01-01", out=folder / "training")
        found["rows"] = sum(rows.read for one in loads for rows in one.tables.values())
        found["training_rows"] = made.table.num_rows
        found["shuffle_mb"] = round(_shuffled(session()) / 1e6, 1)
        found["lake_mb"] = round(sum(_sizes(folder / "lake")) / 1e6, 1)
        found["peak_mb"] = round(peak_mb())
    return found


def processor_seconds() -> float:
    """Of this process and of all that it started and that still run."""
    parents, used = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
        used[int(path.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(used.get(pid, 0.0) for pid in ours)


def _shuffled(spark: Any) -> int:
    """Bytes that tasks wrote for other tasks."""
    executors = spark.sparkContext._jsc.sc().statusStore().executorList(False)
    return sum(executors.apply(n).totalShuffleWrite() for n in range(executors.size()))


def _sizes(folder: Path) -> Iterator[int]:
    return (path.stat().st_size for path in folder.rglob("*.parquet"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--months", type=int, default=3)
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--memory", default="3g")
    parser.add_argument("--one", action="store_true", help="in this process; used by itself")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.sizes[0], options.months)))
        return 0
    environment = os.environ | {
        "STREAMFLOW_SPARK_MASTER": options.master,
        "STREAMFLOW_SPARK_MEMORY": options.memory,
        "STREAMFLOW_SPARK_JAVA": " ",  # compiled as far as Java can: these runs are long
        "PYTHONPATH": str(ROOT),
    }
    results: list[dict[str, Any]] = []
    for users in options.sizes:
        command = [sys.executable, __file__, "--one", "--sizes", str(users)]
        command += ["--months", str(options.months)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(done.stdout[-3000:], file=sys.stderr)
            return done.returncode
        result = json.loads(done.stdout.splitlines()[-1])
        if results:
            before = results[-1]
            cost = [
                (r["build_cpu_s"] + r["next_build_cpu_s"]) / r["users"] for r in (before, result)
            ]
            result["growth"] = round(cost[1] / cost[0], 3)
        results.append(result | {"master": options.master})
        print(json.dumps(results[-1]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
