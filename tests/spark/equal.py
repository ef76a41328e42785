"""`make equal`: do Postgres and Spark say the same, to the bit?

Builds the sample's drops on both in two increments, the second with a late drop and a corrected
one, and compares every cell of every version and of every published slice, every online row and a
training set. With --histories, random histories of the oracle's generator as well. The last line is
one JSON object; the exit status is 1 where a cell differs.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from data.paths import DBT_PROJECT


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder, and a database server of its own in it; both are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="streamflow-equal-"))
    folder.chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in [name for name in os.environ if name.startswith(("STREAMFLOW_PG", "PG"))]:
        del os.environ[name]
    os.environ |= {
        "STREAMFLOW_PG_PORT": str(port),
        "STREAMFLOW_STATE": str(folder / "state"),
        "DBT_LOG_PATH": str(folder / "logs"),
    }
    from data.__main__ import main as data

    data(["up"])
    try:
        yield folder
    finally:
        data(["down"])
        shutil.rmtree(folder, ignore_errors=True)


def corrected(drop: Path, out: Path) -> Path:
    """The drop as its sender would correct it: users gone, sign-ups moved, sessions changed, and
    taken back."""
    folder = out / drop.name
    shutil.copytree(drop, folder)
    for name, change in (("users", _users), ("usage", _usage), ("payments", _payments)):
        path = folder / f"{name}.csv"
        if not path.exists():
            continue
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        kept = [row for n, row in enumerate(rows) if change(n, row)]
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)
    gone = {row["user_id"] for row in rows_of(drop, "users")} - {
        row["user_id"] for row in rows_of(folder, "users")
    }
    for name in ("subscriptions", "labels"):  # of users whom the drop lists
        path = folder / f"{name}.csv"
        rows = [row for row in rows_of(folder, name) if row["user_id"] not in gone]
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return folder


def rows_of(drop: Path, table: str) -> list[dict[str, str]]:
    """The rows of a file of a drop."""
    with (drop / f"{table}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _users(n: int, row: dict[str, str]) -> bool:
    if n % 11 == 3:
        row["signup_date"] = date.fromisoformat(row["signup_date"]).replace(day=1).isoformat()
    return n % 29 != 7


def _usage(n: int, row: dict[str, str]) -> bool:
    if n % 13 == 5:
        row["watch_minutes"] = "17.0625"
    return n % 7 != 2


def _payments(n: int, row: dict[str, str]) -> bool:
    if n % 5 == 1:
        row["status"] = "failed" if row["status"] == "succeeded" else "succeeded"
    return n % 17 != 4


def increments(folder: Path, users: int) -> list[list[Path]]:
    """The sample's drops: the first increment lacks one, the second has it, a new and a corrected
    one."""
    from data.sample.generate import Plan, generate

    drops = generate(folder / "drops", Plan(users=users, months=4, grain="both"))
    late = drops.pop(1)
    return [drops[:2], [late, drops[2], corrected(drops[1], folder / "corrected")]]


def with_a_new_column(folder: Path) -> Path:
    """A copy of the dbt project with one feature more, of which all of history is computed."""
    project = folder / "dbt_project"
    ignored = shutil.ignore_patterns("target", "logs")
    shutil.copytree(DBT_PROJECT, project, ignore=ignored)
    model = project / "models" / "features" / "user_features.sql"
    text = model.read_text()
    last = "        pairs.signup_date\n"
    assert text.count(last) == 1
    feature = "users.has_family or users.has_dependents as is_not_alone"
    more = f"        pairs.signup_date,\n        {feature}\n"
    model.write_text(text.replace(last, more))
    yaml = model.with_suffix(".yml")
    text = yaml.read_text()
    entry = (
        "      - name: is_not_alone\n        description: Has family or dependents.\n"
        "        data_type: boolean\n"
    )
    assert text.count("\nunit_tests:\n") == 1
    yaml.write_text(text.replace("\nunit_tests:\n", f"{entry}\nunit_tests:\n"))
    return project


def peak_mb() -> float:
    """The most memory that this process and Spark's had at once, in MB."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return own + sum(_peak_of(path) for path in Path("/proc").glob("[0-9]*/status"))


def _peak_of(status: Path) -> float:
    """Of a Java process that this one started."""
    try:
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    except OSError:
        return 0.0
    ours = lines.get("PPid", "").strip() == str(os.getpid())
    java = lines.get("Name", "").strip() == "java"
    return int(lines["VmHWM"].split()[0]) / 1024 if ours and java else 0.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--histories", type=int, default=10, help="random histories; 0: none")
    parser.add_argument("--short", action="store_true", help="no new column and no cadence day")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args(arguments)
    began = time.monotonic()
    os.environ.setdefault("STREAMFLOW_SPARK_COMPILE", "false")
    with scratch() as folder:
        from tests.spark.histories import compare_histories
        from tests.spark.online import compare_online, compare_training_sets
        from tests.spark.sides import Compared, Sides

        sides, total = Sides(folder), Compared()
        planned = increments(folder, options.users)
        for number, drops in enumerate(planned, 1):
            for drop in drops:
                loaded = sides.deliver(drop)
                assert loaded[0].tables == loaded[1].tables, f"the loads of {drop.name} differ"
            sides.build_both()
            found = sides.compare()
            found.add(compare_online(sides))
            found.add(compare_training_sets(sides, f"2020-01-01..{drops[-1].name}"))
            told(f"increment {number}: {found.cells:,} cells, {found.different:,} unequal", found)
            total.add(found)
        if not options.short:
            for name, project, variables in (
                ("a new column", with_a_new_column(folder), {}),
                ("cadence day", DBT_PROJECT, {"cadence": "day"}),
            ):
                Sides(folder, project).build_both(**variables)
                found = sides.compare()
                told(f"{name}: {found.cells:,} cells, {found.different:,} unequal", found)
                total.add(found)
        if options.histories:
            found = compare_histories(folder, options.histories, options.seed)
            told(
                f"{options.histories} histories, seed {options.seed}: {found.cells:,} cells, "
                f"{found.different:,} unequal", found,
            )  # fmt: skip
            total.add(found)
        memory = peak_mb()
    print(
        json.dumps(
            {
                "cells_compared": total.cells,
                "different": total.different,
                "increments": len(planned),
                "late_and_corrected": 2,
                "seconds": round(time.monotonic() - began, 1),
                "peak_mb": round(memory),
            }
        )
    )
    return int(total.different > 0)


def told(line: str, found: object) -> None:
    """Say what was found, with the first differences."""
    print("\n  ".join([line, *getattr(found, "examples", [])]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
