"""OpenLineage events: what a receiver gets of each step, and that no step needs one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from data.database import Database
from orchestration import steps
from orchestration.lineage import datasets
from orchestration.lineage.events import emitted

Event = dict[str, Any]


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """The client writes variables of its own: OPENLINEAGE__TRANSPORT__TRANSPORTS__..."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Event]]:
    """What a small HTTP server got at /api/v1/lineage, where OPENLINEAGE_URL points."""
    got: list[Event] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/api/v1/lineage"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append(json.loads(body))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{server.server_port}")
    yield got
    server.shutdown()
    thread.join()
    server.server_close()


def ends(events: list[Event], job: str) -> Event:
    """The last event of a job, after a START of the same run."""
    of = [event for event in events if event["job"]["name"] == job]
    assert [event["eventType"] for event in of] == ["START", "COMPLETE"]
    assert of[0]["run"]["runId"] == of[1]["run"]["runId"]
    return of[1]


def named(event: Event, side: str, name: str) -> Event:
    [found] = [d for d in event[side] if d["name"].endswith(name)]
    return found


def inputs_of(dataset: Event, column: str) -> set[tuple[str, str]]:
    of = dataset["facets"]["columnLineage"]["fields"][column]["inputFields"]
    return {(field["name"].rpartition(".")[2], field["field"]) for field in of}


def test_every_step_tells_what_it_read_and_wrote_column_by_column(
    sample: Database, sample_drops: Path, received: list[Event], tmp_path: Path
) -> None:
    drop = max(sample_drops.iterdir())
    steps.ingest(drop)
    steps.build()
    steps.materialize()
    steps.training_set(["2024-02-29"], out=tmp_path, name="february", service="churn_v1")

    ingest = ends(received, "ingest")
    file = named(ingest, "inputs", "usage.csv")
    assert file["namespace"] == "file"
    assert Path(file["name"]).is_file()
    assert "watch_minutes" in [f["name"] for f in file["facets"]["schema"]["fields"]]
    raw = named(ingest, "outputs", ".raw.usage")
    [of] = raw["facets"]["columnLineage"]["fields"]["watch_minutes"]["inputFields"]
    assert (of["name"], of["field"]) == (file["name"], "watch_minutes")
    assert raw["outputFacets"]["outputStatistics"]["rowCount"] == 0  # it was known already

    build = ends(received, "build")
    usage = named(build, "outputs", ".features.usage_features")
    schema = {f["name"]: f["type"] for f in usage["facets"]["schema"]["fields"]}
    assert schema["watch_hours_30d"] == "double precision"
    assert ("stg_usage", "watch_ms") in inputs_of(usage, "watch_hours_30d")
    staging = named(build, "outputs", ".staging.stg_usage")
    assert inputs_of(staging, "watch_ms") == {("usage", "watch_minutes")}
    tested = [d for d in build["inputs"] if d["name"].endswith(".features.usage_features")]
    assertions = tested[0]["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert {(a["assertion"], a.get("column")) for a in assertions} >= {
        ("in_range", "watch_hours_30d"),
        ("grain", None),
    }
    assert all(a["success"] or a["severity"] == "warn" for a in assertions)

    online = named(ends(received, "materialize"), "outputs", ".online.usage_features")
    assert inputs_of(online, "skips_7d") == {("usage_features", "skips_7d")}

    training = ends(received, "training_set")
    written = named(training, "outputs", "february.parquet")
    assert inputs_of(written, "churn_label") == {("churn_labels", "churn_label")}
    assert inputs_of(written, "monthly_fee") == {("subscription_features", "monthly_fee")}
    assert written["outputFacets"]["outputStatistics"]["rowCount"] > 200
    for event in received:
        assert event["job"]["namespace"] == "streamflow"
        assert event["schemaURL"].startswith("https://openlineage.io/spec/")


def test_a_step_that_fails_says_why(
    sample: Database, received: list[Event], tmp_path: Path
) -> None:
    with pytest.raises(steps.StepError):
        steps.ingest(tmp_path / "2024-13-01")
    assert [event["eventType"] for event in received] == ["START", "FAIL"]
    assert "2024-13-01" in received[1]["run"]["facets"]["errorMessage"]["message"]


def test_a_test_that_found_rows_is_an_assertion_without_success(sample: Database) -> None:
    with sample.connect() as connection:
        connection.execute(
            "update ledger.tests set status = 'fail', failures = 3, message = 'Got 3 results'"
            " where name like 'in_range_usage_features_0__skips_7d'"
        )
    tested = datasets.of_tests(datetime(1970, 1, 1, tzinfo=timezone.utc))
    [usage] = [d for d in tested if d.name.endswith(".usage_features")]
    failed = [a for a in usage.inputFacets["dataQualityAssertions"].assertions if not a.success]
    assert [(a.column, a.actual, a.severity) for a in failed] == [("skips_7d", "3 rows", "error")]


def test_events_go_to_a_file_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(tmp_path / "events.json"))
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "elsewhere")
    with emitted("audit"):
        pass
    events = [json.loads(line) for line in (tmp_path / "events.json").read_text().splitlines()]
    assert [event["eventType"] for event in events] == ["START", "COMPLETE"]
    assert events[0]["job"]["namespace"] == "elsewhere"


def test_nobody_listening_is_said_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free_port: Any
) -> None:
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "http")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__RETRY", json.dumps({"total": 0}))
    done = []
    with emitted("audit"):
        done.append(1)
    assert done == [1]
    assert "OpenLineage: COMPLETE of audit was not sent: " in capsys.readouterr().err


def test_without_a_setting_nothing_is_even_imported() -> None:
    code = (
        "import sys\nfrom orchestration import steps\nfrom orchestration.lineage.events import *\n"
        "with emitted('audit') as run: run.tells(print, 1)\n"
        "assert not [name for name in sys.modules if name.startswith(('openlineage', 'sqlglot'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
