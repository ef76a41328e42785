"""`make dagster`: webserver and daemon on 127.0.0.1, with telemetry and pop-ups off."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from data.errors import command
from data.paths import ROOT
from data.postgres.server import state_folder
from orchestration import steps
from orchestration.local import background

NAME = "dagster"  # what `make down` stops it by


def environment() -> dict[str, str]:
    """The process environment with Dagster's home, made when missing, and telemetry off."""
    home = Path(os.environ.get("DAGSTER_HOME") or state_folder() / "dagster").resolve()
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        shutil.copy(Path(__file__).with_name("dagster.yaml"), home)
    return os.environ | {"DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "1"}


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Become `dagster dev`; ends with Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m orchestration dagster", description=__doc__)
    parser.add_argument("--port", type=int, default=3000)
    options = parser.parse_args(arguments)
    program = Path(sys.executable).with_name("dagster")
    if not program.exists():
        print("dagster: not installed | then run: make dagster", file=sys.stderr)
        return 1
    background.check_free(NAME, "127.0.0.1", options.port)
    os.environ.update(environment())
    from dagster import DagsterInstance

    from orchestration.defs.left_behind import end_runs

    with DagsterInstance.get() as instance:
        for run_id in end_runs(instance):
            steps.say(f"run {run_id} was cut off when Dagster stopped; reported as failed")
    steps.say(f"Dagster at http://127.0.0.1:{options.port} in some ten seconds; Ctrl-C ends it")
    os.chdir(ROOT)
    command = ["dagster", "dev", "-m", "orchestration.defs.definitions", "-h", "127.0.0.1"]
    command += ["-p", str(options.port)]
    background.remember(NAME, os.getpid(), command)
    # A shell's `&` starts programs with SIGINT ignored, and Dagster then ignores SIGTERM as well.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return os.execve(program, command, environment())


def stop() -> bool:
    """Stop it and the programs that it started, which it waits for; whether it was running."""
    return background.stop(NAME, seconds=90)
