"""Become Dagster's webserver or daemon in a container, its storage in the project's Postgres.

`python -m orchestration.defs.dagster_service webserver|daemon`
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from data.database import Database

COMMANDS = {
    "webserver": ["dagster-webserver", "-h", "0.0.0.0", "-p", "3000"],  # compose binds loopback
    "daemon": ["dagster-daemon", "run"],
}


def make_schema() -> None:
    """Dagster makes its tables itself, but not the schema that they go to; set-up makes it for the
    login of the steps, which may make none (data/postgres/roles.py)."""
    with Database().connect() as connection:
        connection.execute("select pg_advisory_xact_lock(hashtext('dagster schema'))")
        if connection.execute("select to_regnamespace('dagster')").fetchone() == (None,):
            connection.execute("create schema dagster")


def main(name: str) -> None:
    """Replace this process."""
    make_schema()
    if name == "daemon":  # there is one, so nothing runs yet
        from dagster import DagsterInstance

        from orchestration.defs.left_behind import end_runs

        with DagsterInstance.get() as instance:
            for run_id in end_runs(instance):
                print(f"run {run_id} was cut off when Dagster stopped; reported as failed")
        sys.stdout.flush()
    command = [*COMMANDS[name], "-m", "orchestration.defs.definitions"]
    os.execv(Path(sys.executable).with_name(command[0]), command)


if __name__ == "__main__":
    main(sys.argv[1])
