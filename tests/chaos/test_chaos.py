"""`make chaos` in short, and that it finds a fault.

If the first fails, a kill, a full disk or a bad drop at the wrong moment loses something.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def chaos(*arguments: str) -> tuple[int, dict[str, Any], str]:
    command = [sys.executable, "-m", "tests.chaos.run", "--users", "12", "--months", "2"]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
    last = done.stdout.strip().splitlines()[-1:] or ["{}"]
    return done.returncode, json.loads(last[0]), done.stderr[-3000:]


def test_nothing_is_lost_whatever_is_killed() -> None:
    status, found, errors = chaos("--seconds", "45", "--seed", "2")
    assert found.get("differences") == [], errors
    assert status == 0
    assert found["acts"]["acts"] >= 5
    assert found["compared"] > 20


def test_a_commit_moved_out_of_its_transaction_is_found() -> None:
    status, found, errors = chaos("--seconds", "120", "--only", "kill", "--plant", "load-in-parts")
    assert status == 1, errors
    assert any("half a load in raw.payments" in what for what in found["differences"])
