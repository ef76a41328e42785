"""The README, done. A reader who types its commands gets what it says, or this fails.

A comment above each block says what becomes of it: `run`, `answer`, `sql`, `yaml`, or `not run`
with the reason.
"""

from __future__ import annotations

import csv
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(?:<!-- (?P<mark>.*?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.S)
NEW = "watch_hours_per_active_day_30d"
VOLATILE = {"age_seconds", "known_at", "invocation_id"}


def blocks(mark: str) -> list[str]:
    text = (ROOT / "README.md").read_text()
    return [found["text"] for found in BLOCK.finditer(text) if found["mark"] == mark]


def test_every_block_says_whether_it_is_run() -> None:
    marks = [found["mark"] or "" for found in BLOCK.finditer((ROOT / "README.md").read_text())]
    known = re.compile(r"run( \w+)?|answer|sql|yaml|not run: .+")
    assert [mark for mark in marks if not known.fullmatch(mark)] == []


def test_every_make_target_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", (ROOT / "README.md").read_text()))
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.M))
    assert named <= targets


@pytest.fixture
def walk(
    own_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    free_port: Callable[[], int],
    shell: Callable[..., str],
) -> Callable[[str], str]:
    """Runs a block in a copy of the project, on a database server and ports of its own."""
    api = free_port()
    monkeypatch.setenv("STREAMFLOW_API_PORT", str(api))
    monkeypatch.setenv("STREAMFLOW_API_DOCS_URL", f"http://127.0.0.1:{free_port()}/")

    def run(block: str) -> str:
        commands = block.replace("localhost:8000", f"127.0.0.1:{api}")
        if not any((Path(p) / "curl").exists() for p in os.environ["PATH"].split(os.pathsep)):
            fetch = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
            commands = f'curl() {{ python -c "{fetch}" "$1"; }}\n{commands}'
        return shell(f"set -e\n{commands}", own_copy)

    return run


def last_json(output: str) -> dict[str, Any]:
    """The answer, without the progress that curl writes after it."""
    return json.JSONDecoder().raw_decode(output[output.index("{") :])[0]


def without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: None if k in VOLATILE else without_clocks(v) for k, v in value.items()}
    return value


def test_its_commands_do_what_it_says(walk: Callable[[str], str], project_copy: Path) -> None:
    demo, own_data = blocks("run")
    (answer,) = blocks("answer")
    command, promised = answer.removeprefix("$ ").split("\n", 1)

    assert "Stop everything         make down" in walk(demo)
    answered = last_json(walk(command))
    assert without_clocks(answered) == without_clocks(json.loads(promised))

    assert "nothing changed" in walk(own_data)

    for mark, suffix in (("sql", "sql"), ("yaml", "yml")):
        add(project_copy / f"dbt_project/models/features/usage_features.{suffix}", blocks(mark)[0])
    (feature,) = blocks("run feature")
    *before, ask = feature.strip().splitlines()
    walk("\n".join(before))
    with (project_copy / "data/processed/training_df.csv").open(newline="") as lines:
        values = [row[NEW] for row in csv.DictReader(lines)]
    assert len([value for value in values if value]) > len(values) / 2
    deadline = time.monotonic() + 15
    while NEW not in (served := last_json(walk(ask))["features"]):
        assert time.monotonic() < deadline, "the API did not notice the new feature"
        time.sleep(1)
    assert served[NEW] == pytest.approx(served["watch_hours_30d"] / served["active_days_30d"])

    lineage = walk(blocks("run lineage")[0])
    assert "payments.status" in lineage
    assert "features in the API's catalogue" in lineage

    training = walk(blocks("run training")[0])
    assert "2024-01-31: " in training
    assert "2024-06-30: " in training
    walk(blocks("run plain")[0])


def add(file: Path, block: str) -> None:
    """Put the README's block where it says: first in the last select, first of the features."""
    text = file.read_text()
    if file.suffix == ".sql":
        place = text.rindex("measured.as_of,\n") + len("measured.as_of,\n")
    else:
        place = text.index("      - name: watch_hours_30d\n")
    file.write_text(text[:place] + block + text[place:])
