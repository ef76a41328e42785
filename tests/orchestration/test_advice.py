"""Advice that can be followed: what a message names exists where the message is read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestration.__main__ import PASSED_ON, parser
from orchestration.advice import STEP, here
from orchestration.steps import StepError

ORCHESTRATION = Path(__file__).resolve().parents[2] / "orchestration"


def test_outside_of_an_image_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STREAMFLOW_IN_IMAGE", raising=False)
    assert here("make up && make build apply") == "make up && make build apply"


@pytest.mark.parametrize(
    ("on_a_machine", "in_an_image"),
    [
        ("make up && make audit", f"docker compose up -d postgres setup && {STEP} audit"),
        ("make load DROP=data/drops/2024-01-31", f"{STEP} ingest data/drops/2024-01-31"),
        ("make build apply", f"{STEP} build && {STEP} apply"),
        ("make materialize FULL=1 && make audit", f"{STEP} materialize --full && {STEP} audit"),
        ("make training-set AS_OF=2024-01-31", f"{STEP} training-set --as-of 2024-01-31"),
        ("make pipeline", "docker compose run --rm pipeline"),
    ],
)
def test_in_an_image_it_is_what_compose_runs(
    on_a_machine: str, in_an_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMFLOW_IN_IMAGE", "1")
    assert here(on_a_machine) == in_an_image
    assert str(StepError("step", "it broke", on_a_machine)).endswith(f"| then run: {in_an_image}")


def test_every_step_that_a_message_names_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMFLOW_IN_IMAGE", "1")
    named = set()
    for file in ORCHESTRATION.glob("*.py"):
        if file.name != "advice.py":
            repairs = re.findall(r'"(make [^"]+)"', file.read_text())
            named |= set(re.findall(rf"{STEP} ([a-z-]+)", here(" && ".join(repairs))))
    assert {"ingest", "build", "apply", "materialize", "audit"} <= named
    for step in named - set(PASSED_ON):
        parser().parse_args([step, "anything"] if step in ("ingest", "vector") else [step])
