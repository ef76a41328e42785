"""Faults to plant, so that it shows whether chaos finds one; and what forks need imported."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from data.database import Database


def preload() -> None:
    """So that a fork begins its step at once: dbt and Feast take seconds to import."""
    import dbt.cli.main
    import feast.repo_operations

    import streamflow_feast.materialize.audit
    import streamflow_feast.training.training_set  # noqa: F401
    from orchestration import steps  # noqa: F401

    assert dbt.cli.main
    assert feast.repo_operations


def ledger_first() -> None:
    """The ledger's row of a materialization is committed before its rows: on a connection of its
    own. A kill in between leaves a ledger that says what is not so."""
    from streamflow_feast.materialize import slice as publish

    record = publish.record

    def recorded(connection: Any, plan: Any, outcome: Any) -> None:
        with Database().connect() as other:
            record(other, plan, outcome)
        time.sleep(0.2)

    publish.record = recorded  # type: ignore[assignment]


def load_in_parts() -> None:
    """A load's rows are committed before its record: half a load can stand."""
    from data.load import load as loading

    add = loading._Merge._add

    def added(self: Any, staged: Any) -> int:
        rows = add(self, staged)
        if rows and staged.table.name == "payments":
            _keep_temporary(self.connection)
            time.sleep(0.2)
        return rows

    loading._Merge._add = added  # type: ignore[method-assign]


def _keep_temporary(connection: Any) -> None:
    """Commit, and have the temporary tables of the load again, as they go with a commit."""
    names = [
        name
        for (name,) in connection.execute(
            "select relname from pg_class where relnamespace = pg_my_temp_schema()"
            " and relkind = 'r'"
        )
    ]
    for name in names:
        connection.execute(f"create temp table kept_{name} as table {name}")
    connection.commit()
    for name in names:
        connection.execute(f"create temp table {name} as table kept_{name}")
        connection.execute(f"drop table kept_{name}")


PLANTS: dict[str, Callable[[], None]] = {
    "ledger-first": ledger_first,
    "load-in-parts": load_in_parts,
}
