"""Loads that commit while a build runs, two builds at once, and a build that is killed.

If one of these fails, rows are lost without a word, or readers see half of a build.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data.database import Database
from tests.dbt import builds
from tests.dbt.builds import everything, rows, unpublished_rows, values
from tests.dbt.conftest import Built

SECONDS = 60  # for what takes a few; the machine may be busy
WAITING = (
    "select count(*) from pg_stat_activity where datname = current_database()"
    " and application_name = %s and wait_event_type = 'Lock'"
)


@contextlib.contextmanager
def transaction(*statements: str) -> Iterator[None]:
    """Statements of another connection, whose locks are held meanwhile."""
    connection = Database().connect(application_name="a test that holds locks")
    try:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]
        yield
    finally:
        connection.close()


def until(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def waits(application: str) -> bool:
    """Whether a session of the program waits for a lock."""
    return bool(rows(WAITING, application)[0][0])


@pytest.fixture
def another_build(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts `dbt build` as a process of its own, which does not outlive the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        project = {"DBT_PROJECT_DIR": str(builds.PROJECT), "DBT_PROFILES_DIR": str(builds.PROJECT)}
        command = [sys.executable, "-m", "dbt.cli.main", "build"]
        with (tmp_path / "output").open("wb") as output:
            process = subprocess.Popen(
                [*command, "--exclude-resource-type", "unit_test"],
                env=os.environ | project,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_load_that_commits_while_a_build_runs_is_not_lost(
    built: Built,
    another_build: Callable[[], subprocess.Popen[bytes]],
    tmp_path: Path,
):
    """The load has its load_id before the build begins, and commits when the build is half done."""
    built.deliver()
    (seen,) = rows("select max(load_id) from raw.loads")[0]
    loading = threading.Thread(target=built.deliver)
    with transaction("lock table staging.int_calendar in access share mode"):
        with transaction("lock table raw.loads in share mode"):
            loading.start()
            until(lambda: waits("streamflow load"))
            building = another_build()
            until(lambda: waits("dbt"))
        loading.join(SECONDS)
        assert rows("select max(load_id) from raw.loads")[0][0] > seen
    assert building.wait(SECONDS) == 0, (tmp_path / "output").read_text()
    assert rows("select max(load_to) from ledger.publications")[0][0] == seen
    values(built.loaded[:-1])
    assert builds.build().success
    values(built.loaded)


def test_a_second_build_is_refused_and_a_killed_one_leaves_nothing_behind(
    built: Built,
    another_build: Callable[[], subprocess.Popen[bytes]],
):
    before = everything()
    built.deliver()
    with contextlib.ExitStack() as locks:
        with transaction("lock table staging.int_calendar in access share mode"):
            killed = another_build()
            until(lambda: waits("dbt"))
            locks.enter_context(transaction("lock table features.usage_features in share mode"))
        until(unpublished_rows)  # of the tables that are not locked

        second = builds.build()
        assert not second.success
        assert "is still running" in second.output
        assert "Nothing was changed" in second.output
        assert killed.poll() is None
        assert everything() == before

        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert unpublished_rows()
    assert everything() == before

    third = builds.build()
    assert third.success, third.output[-4000:]
    assert not unpublished_rows()
    assert rows("select status, count(*) from ledger.builds group by 1 order by 1") == [
        ("published", 2),
        ("unpublished", 1),
    ]
    values(built.loaded)
