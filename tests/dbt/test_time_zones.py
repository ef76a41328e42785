"""Windows are counted in UTC, whatever time zone a server, a role or a shell prefers.

If one of these fails, an edge of a window moves by an hour twice a year, and nobody is told.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.database import Database
from tests.dbt import builds, histories


@pytest.fixture
def zone(request: pytest.FixtureRequest, shared: Database, monkeypatch: pytest.MonkeyPatch):
    """The owner and the database prefer a zone, and so does the shell."""
    name = request.param
    settings = (f"role {shared.user}", f"database {shared.database}")
    builds.execute(*(f"alter {thing} set timezone to '{name}'" for thing in settings))
    monkeypatch.setenv("TZ", name)
    yield name
    builds.execute(*(f"alter {thing} reset timezone" for thing in settings))


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"], indirect=True)
def test_edges_of_windows_do_not_follow_the_time_zone(zone: str, monkeypatch: pytest.MonkeyPatch):
    told = histories.draw(seed=31, users=10).deliveries
    for delivery in told:
        builds.deliver(delivery)
    outcome = builds.dbt("build")  # with the unit tests, which state the edges
    assert outcome.success, outcome.output[-3000:]
    builds.values(told)


@pytest.mark.parametrize("zone", ["America/New_York"], indirect=True)
def test_a_session_that_is_not_in_utc_builds_nothing(zone: str, tmp_path: Path):
    builds.deliver(histories.draw(seed=31, users=2).deliveries[0])
    project = str(builds.PROJECT)
    command = [
        sys.executable, "-m", "dbt.cli.main", "--no-use-colors", "build",
        "--project-dir", project, "--profiles-dir", project, "--target-path", str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "PGTZ": zone}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode
    assert f"this session's TimeZone is {zone}" in done.stdout
    assert "unset PGTZ" in done.stdout
    assert builds.rows("select count(*) from ledger.builds") == [(0,)]
    assert builds.rows("select count(*) from pg_tables where schemaname = 'features'") == [(0,)]
