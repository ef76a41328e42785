"""dbt on Spark: equal to Postgres after late and corrected drops, safe when killed, never silent.

One lake and one Postgres go through the whole module, in the order in which the tests stand: a
build takes a minute. If one of these fails, who moves to Spark gets other features than before.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.dbt import builds

pytest.importorskip("pyspark", reason="Spark is not installed: make spark")

USERS = 60


@pytest.fixture(scope="module")
def planned(both: Any) -> list[list[Path]]:
    """The drops of two increments; the first is loaded."""
    from tests.spark.equal import increments

    found = increments(both.folder, USERS)
    for drop in found[0]:
        both.deliver(drop)
    return found


@pytest.fixture(scope="module")
def built(both: Any, planned: list[list[Path]]) -> Any:
    """Both sides with the first increment; on Spark after two builds that were killed."""
    features = both.lake / "warehouse" / "features.db"
    killed(both, lambda: any((both.lake / "staging").glob("*/*")))  # inside a table's making
    killed(both, lambda: any(features.glob("*/known_at=*/*.parquet")))  # versions are appended
    assert not any((both.lake / "ledger" / "publications").glob("*.parquet"))
    both.build_both()
    return both


def killed(both: Any, far_enough: Callable[[], bool]) -> None:
    """Start a build in a process of its own, and kill it when it has come far enough."""
    environment = os.environ | {"STREAMFLOW_SPARK_COMPILE": "false"}
    with both.environment("spark"):
        environment |= os.environ
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


def test_after_a_killed_build_the_same_command_builds_what_postgres_builds(built: Any) -> None:
    from data.lake.session import session

    found = built.compare()
    assert found.cells > 10_000
    assert (found.different, found.examples) == (0, [])
    with built.environment("spark"):
        known = session().sql("select known_at from ledger.publications").collect()
        there = session().sql("select distinct known_at from features.usage_features").collect()
    assert {row[0] for row in there} <= {row[0] for row in known}, "unpublished versions are left"


def test_feast_brings_the_same_rows_online_and_the_same_training_set_out(built: Any) -> None:
    from tests.spark.online import compare_online, compare_training_sets

    online = compare_online(built)
    assert online.cells > 1_000
    assert (online.different, online.examples) == (0, [])
    sets = compare_training_sets(built, "2020-01-01..2030-01-01")
    assert sets.cells > 1_000
    assert (sets.different, sets.examples) == (0, [])


def test_late_and_corrected_drops_arrive_on_both_alike(built: Any, planned: list) -> None:
    from tests.spark.online import compare_online, compare_training_sets

    for drop in planned[1]:
        here, there = built.deliver(drop)
        assert there.tables == here.tables
    built.build_both()
    found = built.compare()
    found.add(compare_online(built))
    found.add(compare_training_sets(built, "2020-01-01..2030-01-01"))
    assert (found.different, found.examples) == (0, [])


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("cast(concat('no number', users.user_gender) as bigint)", "CAST_INVALID_INPUT"),
        ("9223372036854775807 + users.signup_days", "ARITHMETIC_OVERFLOW"),
    ],
    ids=["a cast that fails", "a sum that overflows"],
)
def test_what_postgres_refuses_fails_the_build_on_spark_too(
    built: Any, tmp_path: Path, wrong: str, error: str
) -> None:
    """dbt-spark asks for spark.sql.ansi.enabled = false, where both would be a wrong value."""
    import shutil

    project = tmp_path / "dbt_project"
    shutil.copytree(builds.PROJECT, project, ignore=shutil.ignore_patterns("target", "logs"))
    model = project / "models" / "features" / "user_features.sql"
    text = model.read_text()
    expression = "{{ days_between('pairs.signup_date', utc_date('pairs.as_of')) }} as tenure_days"
    assert text.count(expression) == 1
    wrong = wrong.replace("users.signup_days", "datediff(users.signup_date, date '1900-01-01')")
    model.write_text(text.replace(expression, f"{wrong} as tenure_days"))
    from tests.spark.sides import Sides

    sides = Sides(built.folder, project)
    outcome = sides.build("spark", "--select", "int_calendar", "int_states", "changes_user",
                          "user_features", "--exclude-resource-type", "test")  # fmt: skip
    assert not outcome.success
    assert error in outcome.output


def test_a_planted_microsecond_is_caught(built: Any, tmp_path: Path) -> None:
    import shutil

    project = tmp_path / "dbt_project"
    shutil.copytree(builds.PROJECT, project, ignore=shutil.ignore_patterns("target", "logs"))
    macro = project / "macros" / "engine" / "microseconds.sql"
    text = macro.read_text()
    right = "(unix_micros({{ until }}) - unix_micros({{ since }}))"
    assert text.count(right) == 1
    macro.write_text(text.replace(right, f"({right} + 1)"))
    from tests.spark.sides import Sides

    sides = Sides(built.folder, project)
    for target in ("postgres", "spark"):
        outcome = sides.build(target, recompute=True)
        assert outcome.success, outcome.output[-3000:]
    found = built.compare()
    assert found.different > 0
    assert any("ticket_avg_resolution_hrs_90d" in example or "alone" in example
               for example in found.examples)  # fmt: skip
