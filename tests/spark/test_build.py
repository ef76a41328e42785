"""dbt on Spark: equal to Postgres after late and corrected drops, safe when killed, never silent.

One test, since each of its builds takes a minute and goes on from the one before. If it fails, who
moves to Spark gets other features than before, or wrong ones in silence.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data.database import Database
from tests.dbt import builds

pytest.importorskip("pyspark", reason="Spark is not installed: make spark")

USERS = 60
WRONG = [  # (model, right, what Postgres refuses, what Spark says of it instead of null or a wrap)
    (
        "user_features",
        "{{ days_between('pairs.signup_date', utc_date('pairs.as_of')) }} as tenure_days",
        "cast(concat('no number', users.user_id) as bigint) as tenure_days",
        "CAST_INVALID_INPUT",
    ),
    (
        "subscription_features",
        "        subscriptions.months_active,\n",
        "        9223372036854775807 + subscriptions.months_active + 1 as months_active,\n",
        "ARITHMETIC_OVERFLOW",
    ),
]


@pytest.fixture
def both(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two empty databases and an empty lake."""
    from tests.spark.sides import Sides, stop_session

    monkeypatch.setenv("STREAMFLOW_SPARK_COMPILE", "false")  # takes longer than these few rows
    stop_session()
    yield Sides(tmp_path)
    stop_session()


def test_spark_equals_postgres_whatever_is_killed_late_or_corrected(both: Any) -> None:
    from tests.spark.equal import increments

    first, second = increments(both.folder, USERS)
    for drop in first:
        both.deliver(drop)
    two_builds_are_killed(both)
    both.build_both()
    everything_is_equal(both)
    no_version_is_left_of_the_killed_builds(both)

    for drop in second:  # one late, one new, one corrected
        here, there = both.deliver(drop)
        assert there.tables == here.tables
    both.build_both()
    everything_is_equal(both)

    what_postgres_refuses_fails_the_build(both)
    a_planted_microsecond_is_found_and_nothing_else(both)


def everything_is_equal(both: Any) -> None:
    """Versions, published slices, online rows, a training set: to the bit."""
    from tests.spark.online import compare_online, compare_training_sets

    for found in (
        both.compare(),
        compare_online(both),
        compare_training_sets(both, "2020-01-01..2030-01-01"),
    ):
        assert found.cells > 1_000
        assert (found.different, found.examples) == (0, [])


def two_builds_are_killed(both: Any) -> None:
    features = both.lake / "warehouse" / "features.db"
    killed(both, lambda: any((both.lake / "staging").glob("*/*")))  # inside a table's making
    killed(both, lambda: any(features.glob("*/known_at=*/*.parquet")))  # versions are appended
    assert not any((both.lake / "ledger" / "publications").glob("*.parquet"))


def killed(both: Any, far_enough: Callable[[], bool]) -> None:
    """Start a build in a process of its own, and kill it when it has come far enough."""
    with both.environment("spark"):
        environment = dict(os.environ)
    command = [
        str(Path(sys.executable).with_name("dbt")), "build", "--project-dir", str(both.project),
        "--profiles-dir", str(both.project), "--exclude-resource-type", "unit_test",
    ]  # fmt: skip
    output = both.folder / "killed.txt"
    with output.open("w") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 400
            while not far_enough():
                assert process.poll() is None, output.read_text()[-3000:]
                assert time.monotonic() < deadline, output.read_text()[-3000:]
                time.sleep(0.05)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def no_version_is_left_of_the_killed_builds(both: Any) -> None:
    from data.lake.session import session

    known = session().sql("select known_at from ledger.publications").collect()
    there = session().sql("select distinct known_at from features.usage_features").collect()
    assert {row[0] for row in there} <= {row[0] for row in known}


def what_postgres_refuses_fails_the_build(both: Any) -> None:
    """dbt-spark asks for spark.sql.ansi.enabled = false, where both would be a wrong value."""
    from tests.spark.sides import Sides

    project = copy_of_the_project(both.folder / "wrong")
    for model, right, wrong, _ in WRONG:
        replace(project / "models" / "features" / f"{model}.sql", right, wrong)
    outcome = Sides(both.folder, project).build(
        "spark", "--select", "int_calendar", "int_states", "changes_user",
        *(model for model, *_ in WRONG), "--exclude-resource-type", "test",
    )  # fmt: skip
    assert not outcome.success
    for model, _, _, error in WRONG:
        assert outcome.statuses[f"model.streamflow.{model}"] == "error"
        assert error in outcome.output


def a_planted_microsecond_is_found_and_nothing_else(both: Any) -> None:
    from tests.spark.sides import Sides

    project = copy_of_the_project(both.folder / "planted")
    right = "(unix_micros({{ until }}) - unix_micros({{ since }}))"
    replace(project / "macros" / "engine" / "microseconds.sql", right, f"({right} + 1)")
    Sides(both.folder, project).build_both(recompute=True)
    found = both.compare()
    assert found.different > 0
    assert all(example.startswith("support_features") for example in found.examples)


def copy_of_the_project(folder: Path) -> Path:
    project = folder / "dbt_project"
    ignored = shutil.ignore_patterns("target", "logs")
    shutil.copytree(builds.PROJECT, project, ignore=ignored)
    return project


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
