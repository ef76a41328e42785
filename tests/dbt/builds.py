"""Loading drops and running dbt from a test, and what the published tables then hold."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from data.contract import declared
from data.database import Database
from data.load.load import load
from tests.dbt import histories
from tests.dbt.known import EVENT_KEYS, Delivery, Known, Pair, Values, midnight
from tests.dbt.oracle import features

PROJECT = Path(__file__).resolve().parents[2] / "dbt_project"
FEATURES = (
    "user_features",
    "subscription_features",
    "usage_features",
    "payment_features",
    "support_features",
    "device_features",
    "user_device_features",
    "churn_labels",
)
KEYS = {"device_features": ["device_id"], "user_device_features": ["user_id", "device_id"]}
Versions = dict[Pair, list[tuple[datetime, Values | None]]]  # oldest first; None: retracted


@dataclass(frozen=True)
class Outcome:
    """One dbt invocation: whether it succeeded, what it printed, unique id -> status."""

    success: bool
    output: str
    statuses: Mapping[str, str]


def dbt(*arguments: str, project: Path = PROJECT, **variables: Any) -> Outcome:
    """Run dbt in this process; `variables` are its vars."""
    from dbt.cli.main import dbtRunner

    printed: list[str] = []

    def note(event: Any) -> None:
        if event.info.level != "debug":
            printed.append(event.info.msg)

    runner = dbtRunner(callbacks=[note])
    # `note` has all that is read here; writing thousands of lines a build takes a tenth of it.
    quiet = ["--no-use-colors", "--log-level", "none", "--log-level-file", "none"]
    folders = ["--project-dir", str(project), "--profiles-dir", str(project)]
    given = ["--vars", json.dumps(variables)] if variables else []
    with contextlib.redirect_stdout(io.StringIO()):
        done = runner.invoke([*quiet, *arguments, *folders, *given])
    results = getattr(done.result, "results", None) or []
    statuses = {  # an operation's result has no node
        result.node.unique_id: str(result.status) for result in results if hasattr(result, "node")
    }
    if done.exception is not None:
        printed.append(str(done.exception))
    return Outcome(done.success, "\n".join(printed), statuses)


def build(**variables: Any) -> Outcome:
    """`dbt build` without the unit tests, which don't depend on what is in the database."""
    return dbt("build", "--exclude-resource-type", "unit_test", **variables)


def deliver(delivery: Delivery, seed: int = 0) -> None:
    """Load one delivery, the way `python -m data load` does."""
    with tempfile.TemporaryDirectory() as folder:
        load(histories.write(Path(folder), delivery, seed))


def rows(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """The rows of a query, in a transaction of its own."""
    with Database().connect() as connection:
        return connection.execute(statement, parameters).fetchall()  # type: ignore[arg-type]


def execute(*statements: str) -> None:
    """Run statements in one transaction."""
    with Database().connect() as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[arg-type]


def empty() -> None:
    """Take out every row, so that the next round starts as in a new database."""
    with Database().connect() as connection:
        tables = connection.execute(
            "select schemaname, tablename from pg_tables"
            " where schemaname in ('raw', 'staging', 'features', 'ledger', 'online')"
        ).fetchall()
        names = sql.SQL(", ").join(sql.Identifier(*table) for table in tables)
        connection.execute(sql.SQL("truncate {} restart identity cascade").format(names))


def published(table: str) -> Versions:
    """Every published version of every pair."""
    versions: Versions = {}
    with Database().connect() as connection:
        cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
        cursor.execute(
            sql.SQL("select * from {} order by known_at").format(sql.Identifier("published", table))
        )
        for row in cursor:
            pair = tuple(row.pop(key) for key in (*KEYS.get(table, ["user_id"]), "as_of"))
            known_at, is_retracted = row.pop("known_at"), row.pop("is_retracted")
            if is_retracted:
                assert set(row.values()) == {None}, f"{table} {pair}: retracted, with values"
            versions.setdefault(pair, []).append((known_at, None if is_retracted else row))
    return versions


def as_known_at(versions: Versions, known_at: datetime) -> dict[Pair, Values]:
    """What the versions say to a reader who asks for `known_at`."""
    state = {}
    for pair, told in versions.items():
        values = [values for stamp, values in told if stamp <= known_at]
        if values and values[-1] is not None:
            state[pair] = values[-1]
    return state


def newest_publication() -> datetime:
    """known_at of the newest publication."""
    return rows("select max(known_at) from ledger.publications")[0][0]


def effective_rows(load_id: int) -> dict[str, list[tuple[Any, ...]]]:
    """table -> the raw rows in effect as seen with the loads up to `load_id`, sorted."""
    found = {}
    with Database().connect() as connection:
        for table in declared():
            names = [column.name for column in table.columns]
            names += [] if table.is_event else ["as_of"]
            selected = connection.execute(
                sql.SQL(
                    "select {} from {} where load_id <= %(h)s"
                    " and (superseded_by is null or superseded_by > %(h)s)"
                ).format(
                    sql.SQL(", ").join(map(sql.Identifier, names)),
                    sql.Identifier("raw", table.name),
                ),
                {"h": load_id},
            )
            found[table.name] = _sorted(selected)
    return found


def expected_rows(deliveries: Iterable[Delivery]) -> dict[str, list[tuple[Any, ...]]]:
    """The same from the deliveries."""
    known = Known(deliveries)
    expected: dict[str, list[tuple[Any, ...]]] = {
        table: _sorted(row.values() for row in known.events[table].values()) for table in EVENT_KEYS
    }
    for table in histories.COLUMNS.keys() - EVENT_KEYS.keys():
        expected[table] = _sorted(
            (*row.values(), midnight(day))
            for (name, _, day), row in known.state.items()
            if name == table
        )
    return expected


def _sorted(selected: Iterable[Iterable[Any]]) -> list[tuple[Any, ...]]:
    """Rows in a fixed order, decimals as floats (29.850 and 29.85 are one value)."""
    plain = [
        tuple(float(value) if isinstance(value, Decimal) else value for value in row)
        for row in selected
    ]
    return sorted(plain, key=repr)


def everything() -> dict[str, Versions]:
    """Every published version of every table: what readers can see."""
    return {table: published(table) for table in FEATURES}


def values(deliveries: Iterable[Delivery], cadence: str = "drops") -> None:
    """The newest published values are those of the oracle."""
    known_at = newest_publication()
    for table, expected in features(deliveries, cadence).items():
        assert as_known_at(published(table), known_at) == expected, table


def unpublished_rows() -> int:
    """Rows of a build that was not published, in any feature table."""
    counts = [
        rows(
            f"select count(*) from features.{table}"
            " where known_at not in (select known_at from ledger.publications)"
        )[0][0]
        for table in FEATURES
    ]
    return sum(counts)
