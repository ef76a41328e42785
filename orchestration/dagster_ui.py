"""`make dagster`: webserver and daemon on 127.0.0.1, with telemetry and pop-ups off."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from data.server import state_folder
from orchestration import steps


def environment() -> dict[str, str]:
    """The process environment with Dagster's home, made when missing, and telemetry off."""
    home = Path(os.environ.get("DAGSTER_HOME") or state_folder() / "dagster").resolve()
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        shutil.copy(Path(__file__).with_name("dagster.yaml"), home)
    return os.environ | {"DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "1"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Become `dagster dev`; ends with Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m orchestration dagster", description=__doc__)
    parser.add_argument("--port", type=int, default=3000)
    options = parser.parse_args(arguments)
    program = Path(sys.executable).with_name("dagster")
    if not program.exists():
        print("dagster: not installed | then run: make dagster", file=sys.stderr)
        return 1
    steps.say(f"Dagster at http://127.0.0.1:{options.port} in about a minute; Ctrl-C ends it")
    os.chdir(steps.ROOT)
    command = ["dagster", "dev", "-m", "orchestration.definitions", "-h", "127.0.0.1"]
    return os.execve(program, [*command, "-p", str(options.port)], environment())
