"""`make dagster` as people have it: webserver, daemon and code server as processes of their own.

If this fails, drops arrive and nobody notices, or what the page's buttons start does not run.
Everything is asked for the way the page does it: through GraphQL.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data.database import Database
from orchestration.defs import dagster_ui
from orchestration.local import background
from tests.orchestration.conftest import as_ofs

pytest.importorskip("dagster_webserver", reason="extra `orchestration`: make test installs it")

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120  # for what takes twenty; the machine may be busy
CODE = {
    "repositoryName": "__repository__",
    "repositoryLocationName": "orchestration.defs.definitions",
}


class Dagster:
    """A running `make dagster`, asked through GraphQL."""

    def __init__(self, port: int, log: Path) -> None:
        self.port, self.log = port, log

    def ask(self, query: str, **variables: Any) -> Any:
        """The one field that the query asks for; an error is an assertion."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            body,
            {"Content-Type": "application/json", "Accept": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = json.load(answer)
        assert "errors" not in content, content
        (found,) = content["data"].values()
        return found

    def ready(self) -> bool:
        try:
            found = self.ask(
                "{ repositoriesOrError { ... on RepositoryConnection { nodes {name} } } }"
            )
        except (OSError, urllib.error.URLError):
            return False
        return bool(found.get("nodes"))

    def runs(self) -> dict[tuple[str, str], str]:
        """(job, month) -> status of its newest run."""
        found = self.ask(
            "{ runsOrError { ... on Runs { results { pipelineName status tags {key value} } } } }"
        )["results"]
        newest_last = reversed(found)
        return {
            (run["pipelineName"], tag["value"]): run["status"]
            for run in newest_last
            for tag in run["tags"]
            if tag["key"] == "dagster/partition"
        }

    def done(self, job: str, month: str) -> None:
        """Wait until the month's newest run of the job has succeeded."""
        deadline = time.monotonic() + SECONDS
        while (now := self.runs().get((job, month))) != "SUCCESS":
            assert now != "FAILURE", f"{job} {month} failed\n{self.said()}"
            assert time.monotonic() < deadline, f"{job} {month}: {now}\n{self.said()}"
            time.sleep(0.5)

    def backfill(self, job: str, *months: str) -> None:
        """What the page's "Launch backfill" asks for."""
        launched = self.ask(
            "mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p)"
            " { __typename ... on LaunchBackfillSuccess { backfillId }"
            " ... on PythonError { message } } }",
            p={
                "selector": {
                    "partitionSetName": f"{job}_partition_set",
                    "repositorySelector": CODE,
                },
                "partitionNames": list(months),
            },
        )
        assert launched["__typename"] == "LaunchBackfillSuccess", launched

    def said(self) -> str:
        return self.log.read_text()[-6000:]


@pytest.fixture
def dagster(
    sample: Database,
    deliver: Callable[[str], Path],
    tmp_path: Path,
    free_port: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Dagster]:
    """Sensor and schedules switched on, over the sample's three months and two new drops."""
    settle(deliver("2024-04-30"), seconds=-600)
    settle(deliver("2024-05-31"), seconds=600)  # still being copied, as far as the sensor knows
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.setenv("STREAMFLOW_AUTOMATION", "on")
    port, log = free_port(), tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            # As a shell's `&` starts it: with Ctrl-C ignored.
            [
                "sh",
                "-c",
                'trap "" INT; exec "$@"',
                "sh",
                sys.executable,
                "-m",
                "orchestration",
                "dagster",
                "--port",
                str(port),
            ],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = Dagster(port, log)
    try:
        assert background.wait_until(running.ready, SECONDS), running.said()
        yield running
    finally:
        dagster_ui.stop()
        process.kill()
        process.wait()


def settle(drop: Path, *, seconds: int) -> None:
    """Date its files; the sensor leaves alone what changed a moment ago."""
    for file in drop.iterdir():
        os.utime(file, (time.time() + seconds,) * 2)


def test_a_drop_is_noticed_months_are_backfilled_and_make_down_ends_it_all(
    dagster: Dagster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dagster.backfill("ingest_month", "2024-05")  # the daemon looks for backfills twice a minute
    dagster.done("ingest_month", "2024-04")  # nobody asked for it
    assert "2024-04-30" in as_ofs("published.usage_features")
    dagster.done("ingest_month", "2024-05")
    assert as_ofs("online.usage_features") == {"2024-05-31"}

    asked = dagster.ask(
        "mutation($s: ScheduleSelector!, $t: Float!) { scheduleDryRun(selectorData: $s,"
        " timestamp: $t) { ... on DryRunInstigationTick { evaluationResult {"
        " error { message } runRequests { runKey tags { key value } } } } } }",
        s={**CODE, "scheduleName": "monthly"},
        t=1_717_308_000.0,  # 2024-06-02 06:00 UTC
    )["evaluationResult"]
    assert asked["error"] is None
    assert [request["runKey"] for request in asked["runRequests"]] == ["2024-05"]
    states = dagster.ask(
        "query($s: RepositorySelector!) { schedulesOrError(repositorySelector: $s) {"
        " ... on Schedules { results { name scheduleState { status } } } } }",
        s=CODE,
    )["results"]
    assert {s["name"]: s["scheduleState"]["status"] for s in states} == {
        "monthly": "RUNNING",
        "daily_freshness": "RUNNING",
    }

    assert dagster_ui.main(["--port", str(dagster.port)]) == 1
    assert "taken by another program" in capsys.readouterr().err
    assert programs(tmp_path)
    assert dagster_ui.stop()
    assert background.wait_until(lambda: not programs(tmp_path), SECONDS), programs(tmp_path)
    assert not dagster_ui.stop()


def programs(folder: Path) -> list[str]:
    """The running programs that have this test's DAGSTER_HOME."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder / "dagster").encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found
