"""What an operator is told: metrics, log lines, and of a defect nothing outside of the log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from data.database import Database
from serving.gate import WrongKeys
from serving.main import create_app
from serving.settings import Settings
from tests.serving.hand_made import running

Ask = Callable[..., list[httpx.Response]]
KEYS = {"keys": "first-key-0123456789,second-key-0123456789"}


def test_metrics_tell_what_happened(ask: Ask) -> None:
    def metrics(answer: httpx.Response) -> dict[str, float]:
        lines = [x for x in answer.text.splitlines() if not x.startswith("#")]
        return {name: float(value) for name, value in (x.rsplit(" ", 1) for x in lines)}

    first, *_, last = ask(
        ("GET", "/metrics"),
        ("GET", "/features/u00001"),
        ("GET", "/features/nobody"),
        ("POST", "/features", {"json": {"user_ids": ["u00001", "nobody"]}}),
        ("GET", "/features/u00001?as_of=x"),
        ("GET", "/metrics"),
    )
    assert last.headers["content-type"].startswith("text/plain; version=0.0.4")
    before, after = metrics(first), metrics(last)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    one = 'method="GET",route="/features/{user_id}"'
    assert grown(f'streamflow_requests_total{{{one},status="200"}}') == 2
    assert grown(f'streamflow_requests_total{{{one},status="400"}}') == 1
    assert grown('streamflow_request_seconds_count{route="/features"}') == 1
    assert grown("streamflow_store_seconds_count") == 3
    assert grown('streamflow_users_total{service="all_features"}') == 4
    assert grown('streamflow_unknown_users_total{service="all_features"}') == 2
    year = 60 * 60 * 24 * 365
    assert after['streamflow_features_age_seconds{view="plan_features"}'] > year
    assert after['streamflow_features_age_seconds{view="fresh_features"}'] < 600
    assert after["streamflow_store_up"] == 1
    assert after["streamflow_registry_version"] == 1


def test_wrong_keys_are_counted_and_told_once_a_minute(
    ask: Ask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever tries keys is to be seen; by the log, but not a line for each of 1,775 a second."""
    right = {"headers": {"x-api-key": "first-key-0123456789"}}
    wrong = {"headers": {"x-api-key": "first-key-012345678x"}}
    answers = ask(
        ("GET", "/metrics", right),
        *[("GET", "/features/u00001", wrong)] * 20,
        ("GET", "/features/u00001"),
        ("GET", "/metrics", right),
        **KEYS,
    )
    assert [answer.status_code for answer in answers[1:-1]] == [401] * 21
    first, last = (
        float(re.search(r"^streamflow_wrong_api_keys_total (\S+)", answer.text, re.M)[1])
        for answer in (answers[0], answers[-1])
    )
    assert last - first == 20

    monkeypatch.setattr(logging.getLogger("serving"), "propagate", True)  # to where caplog listens
    now = [0.0]
    keys = WrongKeys(lambda: now[0])
    with caplog.at_level(logging.WARNING, "serving.gate"):
        for now[0] in (0.0, 1.0, 59.9, 60.0, 61.0, 200.0):
            keys.count()
    told = [record.getMessage().split()[0] for record in caplog.records]
    assert told == ["1", "3", "2"]
    assert "first-key" not in caplog.text


def test_a_log_line_names_the_request_and_no_user(ask: Ask, capsys: Any) -> None:
    headers = {"x-request-id": "trace-7", "x-api-key": "first-key-0123456789"}
    chosen, made_up = ask(
        ("GET", "/features/u00042", {"headers": headers}),
        ("GET", "/features/nobody", {"headers": headers | {"x-request-id": "bad id\t"}}),
        **KEYS,
    )
    output = capsys.readouterr().out
    lines = [json.loads(line) for line in output.splitlines()]
    [line] = [line for line in lines if line.get("request_id") == "trace-7"]
    assert chosen.headers["x-request-id"] == "trace-7"
    assert (line["route"], line["status"], line["users"]) == ("/features/{user_id}", 200, 1)
    assert line["ms"] > 0
    assert len(line["key"]) == 8
    assert len(made_up.headers["x-request-id"]) == 16
    assert "u00042" not in output
    assert "first-key" not in output


def test_a_defect_shows_nothing_of_itself(
    online: Database, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr("serving.answers.Answers.one", fail)

    async def run() -> httpx.Response:
        async with running(create_app(Settings(), online)) as client:
            return await client.get("/features/u00001")

    answer = asyncio.run(run())
    assert (answer.status_code, answer.json()["type"]) == (500, "/docs#problem-internal")
    assert "hunter2" not in answer.text
    log = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    [defect] = [line for line in log if "exception" in line]
    assert "hunter2" in defect["exception"]
    assert defect["request_id"] == answer.json()["request_id"]
