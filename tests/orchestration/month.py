"""Not a test: runs `ingest_month` again and again, each in a fork that dies where it is told.

    python month.py 2024-04 counts.json                 undisturbed; writes what the steps did
    python month.py 2024-04 counts.json ingest build    killed in each of them in turn

A run goes on where the one before it died, as Dagster's "re-execute from failure" does.

Dagster, dbt and Feast are imported once, before the forks. "In" a step is after half of the
statements that it sent when it was undisturbed; in dbt's step, when the first feature table is
there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import feast.repo_operations  # noqa: F401
import psycopg
from dbt.cli.main import dbtRunner  # noqa: F401

from orchestration import steps
from orchestration.defs.definitions import defs
from streamflow_feast.online import store  # noqa: F401

STEPS = ("ingest", "apply", "materialize", "audit")
BEHIND = {"materialize": ("feast", "online"), "audit": ("online",)}  # what is still to do then


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(kill_in: str, counts: dict[str, int]) -> None:
    """Count the statements of each step; die in the middle of `kill_in`."""
    now: list[str] = []
    before = psycopg.Cursor.execute

    def execute(self: psycopg.Cursor, *arguments: Any, **options: Any) -> Any:
        if now:
            seen[now[0]] = seen.get(now[0], 0) + 1
            if now[0] == kill_in and seen[kill_in] > counts[kill_in] // 2:
                die()
        return before(self, *arguments, **options)

    seen: dict[str, int] = {}
    psycopg.Cursor.execute = execute  # type: ignore[method-assign]

    def watched(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            now.append(name)
            try:
                return step(*arguments, **options)
            finally:
                now.remove(name)
                if not kill_in:
                    counts[name] = seen.get(name, 0)

        return run

    for name in STEPS:
        setattr(steps, name, watched(name, getattr(steps, name)))
    told = steps.Progress.__call__

    def event(self: Any, message: Any) -> None:
        name = message.info.name
        if kill_in == "build" and name == "LogModelResult":
            node = message.data.node_info.node_name
            if node.endswith("_features"):
                die()
        told(self, message)

    steps.Progress.__call__ = event  # type: ignore[method-assign]


def run(month: str, kill_in: str, counts: dict[str, int], file: Path) -> int:
    """The job in a fork; its wait status."""
    sys.stdout.flush()
    if child := os.fork():
        return os.waitpid(child, 0)[1]
    code = 1
    try:
        arm(kill_in, counts)
        job = defs.resolve_job_def("ingest_month")
        with dg.DagsterInstance.ephemeral() as instance:
            groups = BEHIND.get(kill_in)
            keys = [k for k in job.asset_layer.executable_asset_keys if k.path[0] in (groups or ())]
            job.execute_in_process(
                partition_key=month, instance=instance, asset_selection=keys or None
            )
        if not kill_in:
            file.write_text(json.dumps(counts))
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    month, file, kills = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    known = json.loads(file.read_text()) if kills else {}
    for step in kills:
        ended = run(month, step, known, file)
        assert ended == signal.SIGKILL, (step, ended)  # a wait status: ended by that signal
        print("killed in", step, flush=True)
    if not kills:
        ended = run(month, "", known, file)
        assert ended == 0, ended
