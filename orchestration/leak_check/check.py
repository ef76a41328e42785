"""Do the dbt models look into the future? Draw histories, change their future, build again.

`make leak-check` takes the project's models as they are
and, in a scratch database of its own:

1. loads random drops, runs the models and keeps every feature value;
2. loads corrections and late rows, runs again: as known before, no value may have moved;
   computed once more from everything, no value may differ from what these runs gave;
3. starts over with the same drops in which every row at or after one as_of was deleted, moved or
   redrawn, and runs again: up to that as_of, no value may have moved.

A value that moved is a leak: the model that gave it cannot be trusted in training. In your own
tests: `from orchestration.leak_check.check import assert_no_leaks`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from random import Random

import psycopg
from psycopg import sql

from data.database import Database
from data.errors import command
from data.load.load import load
from data.paths import DBT_PROJECT
from data.postgres.setup import set_up
from orchestration import steps
from orchestration.leak_check import histories
from orchestration.leak_check.histories import Drop
from orchestration.surroundings import environment

USERS = 150
KEPT = "leak_check"  # schema of the values before


class LeakCheckError(RuntimeError):
    """The models could not be run on drawn histories; carries dbt's words."""


@dataclass(frozen=True)
class Leak:
    """A feature that moved: where first, from what to what, and in how many rows in all."""

    model: str
    column: str
    key: str
    as_of: datetime
    before: str | None
    after: str | None
    rows: int
    cause: str

    def __str__(self) -> str:
        return (
            f"{self.model}.{self.column} leaks: {self.key} at {self.as_of:%Y-%m-%d} was "
            f"{self.before} and is {self.after} after {self.cause} ({self.rows} rows moved)"
        )


@dataclass(frozen=True)
class Stale:
    """A model whose builds did not notice what changed: computed again, rows came out otherwise."""

    model: str
    rows: int
    key: str
    as_of: datetime

    def __str__(self) -> str:
        return (
            f"{self.model} goes stale: {self.rows} rows differ once everything is computed again, "
            f"first {self.key} at {self.as_of:%Y-%m-%d}. It reads other tables, or farther back, "
            "than it says at its top (events, pairs_to_compute)"
        )


@dataclass(frozen=True)
class View:
    """A published feature table."""

    keys: list[str]
    columns: list[str]


@dataclass(frozen=True)
class Result:
    """What was checked, and what was found."""

    leaks: list[Leak]
    stale: list[Stale]
    models: int
    features: int
    rows: int
    cut: date
    changed: int

    def __str__(self) -> str:
        checked = (
            f"{self.features} features of {self.models} models, {self.rows:,} rows "
            f"up to {self.cut}; {self.changed:,} raw rows at or after it were changed"
        )
        if self.passed:
            return f"no leak, nothing stale: {checked}"
        found = [*map(str, self.leaks), *map(str, self.stale)]
        counts = f"{len(self.leaks)} columns leak and {len(self.stale)} models are stale"
        return "\n".join([*found, f"{counts} of {checked}"])

    @property
    def passed(self) -> bool:
        return not (self.leaks or self.stale)


def assert_no_leaks(project: Path = DBT_PROJECT, seed: int = 0, users: int = USERS) -> None:
    """For tests: AssertionError that names every leak (model, column, row) and stale model."""
    result = check(project, seed, users)
    assert result.passed, str(result)


def check(project: Path = DBT_PROJECT, seed: int = 0, users: int = USERS) -> Result:
    """Draw histories from `seed` and look for leaks in the models of `project`.

    Raises:
        LeakCheckError: a model fails on the drawn histories.
    """
    random = Random(seed)
    drops = histories.draw(random, users)
    cut = drops[-2].day
    later = histories.later_deliveries(random, drops)
    other, changed = histories.another_future(random, drops, cut)
    with tempfile.TemporaryDirectory() as folder, _scratch_database() as settings:
        scratch = Path(folder)
        _deliver(drops, scratch / "drops", settings)
        _run_models(project, scratch, settings)
        with settings.connect() as connection:
            known_at = _published(connection)
            views = _views(connection)
            rows = sum(_keep(connection, name, view) for name, view in views.items())
        _deliver(later, scratch / "later", settings)
        _run_models(project, scratch, settings)
        with settings.connect() as connection:
            cause = "later rows arrived, and the model rewrote what was known before"
            leaks = _moved(connection, views, known_at, None, cause)
        _run_models(project, scratch, settings, recompute=True)
        with settings.connect() as connection:
            stale = _appended(connection)
            _empty(connection)
        _deliver(other, scratch / "other", settings)
        _run_models(project, scratch, settings)
        with settings.connect() as connection:
            cause = f"raw rows at or after {cut} were moved or deleted"
            leaks += _moved(connection, views, None, cut, cause)
    features = sum(len(view.columns) for view in views.values())
    return Result(leaks, stale, len(views), features, rows, cut, changed)


@contextmanager
def _scratch_database() -> Iterator[Database]:
    """A database of this process beside the configured one, gone at the end."""
    configured = Database()
    name = f"{configured.database}_leak_check_{os.getpid()}"
    scratch = configured.model_copy(update={"database": name})

    def administer(statement: str) -> None:
        with psycopg.connect(configured.conninfo(), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(name)))

    administer("drop database if exists {} with (force)")
    administer("create database {}")
    try:
        set_up(scratch)
        yield scratch
    finally:
        administer("drop database if exists {} with (force)")


def _deliver(drops: Sequence[Drop], folder: Path, settings: Database) -> None:
    for number, drop in enumerate(drops):
        load(histories.write(drop, folder / str(number)), settings)


def _run_models(
    project: Path, scratch: Path, settings: Database, *, recompute: bool = False
) -> None:
    """`dbt run` against the scratch database, which publishes there (macros/end_build.sql).

    No tests, and as many users may leave as will: drawn values need not be plausible.
    """
    from dbt.cli.main import dbtRunner

    with environment(STREAMFLOW_PG_DATABASE=settings.database):
        done = dbtRunner().invoke(
            [
                "--quiet", "--no-use-colors", "--log-path", str(scratch / "logs"),
                "run", "--vars", json.dumps({"recompute": recompute, "allow_leaving": 10**9}),
                "--project-dir", str(project), "--profiles-dir", str(project),
                "--target", "postgres", "--target-path", str(scratch / "target"),
            ]
        )  # fmt: skip
    if not done.success:
        results = getattr(done.result, "results", None) or []
        words = [
            f"{result.node.name}: {' '.join(str(result.message).split())}"
            for result in results
            if str(result.status) == "error"
        ]
        raise LeakCheckError(
            "dbt run fails on drawn histories: " + ("; ".join(words) or str(done.exception))
        )


def _published(connection: psycopg.Connection) -> datetime:
    """known_at of the publication that dbt just made."""
    (known_at,) = connection.execute(
        "select max(known_at) from ledger.publications"
    ).fetchone() or (None,)
    assert known_at is not None
    return known_at


def _appended(connection: psycopg.Connection) -> list[Stale]:
    """The models to which the newest publication appended rows."""
    stale = []
    (tables,) = connection.execute(
        "select rows_appended from ledger.publications order by known_at desc limit 1"
    ).fetchone() or ({},)
    for model, rows in tables.items():
        if rows:
            keys = _names(_join_keys(connection, model))
            *key, as_of = connection.execute(
                sql.SQL(
                    "select {}, as_of from {} where known_at = (select max(known_at)"
                    " from ledger.publications) order by as_of, {} limit 1"
                ).format(keys, sql.Identifier("published", model), keys)
            ).fetchone() or ("", datetime.min)
            stale.append(Stale(model, rows, ", ".join(map(str, key)), as_of))
    return stale


def _views(connection: psycopg.Connection) -> dict[str, View]:
    """The feature views of the newest publication."""
    nodes = connection.execute(
        "select node ->> 'name', array(select json_object_keys(node -> 'columns'))"
        " from (select manifest from ledger.publications order by known_at desc limit 1) as newest,"
        " json_each(manifest -> 'nodes') as nodes (id, node)"
        " where node -> 'config' -> 'meta' -> 'feast' is not null"
    ).fetchall()
    views = {}
    for name, columns in nodes:
        keys = _join_keys(connection, name)
        known = {*keys, "as_of", "known_at", "is_retracted"}
        views[name] = View(keys, [column for column in columns if column not in known])
    return views


def _join_keys(connection: psycopg.Connection, view: str) -> list[str]:
    (keys,) = connection.execute(
        "select ledger.join_keys(manifest, %s) from ledger.publications"
        " order by known_at desc limit 1",
        [view],
    ).fetchone() or ([],)
    return keys


def _names(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _newest(name: str, view: View, known_at: datetime | None) -> sql.Composed:
    """The rows of a versioned table, as known at an instant; None is now."""
    pair = _names([*view.keys, "as_of"])
    return sql.SQL(
        "select * from (select distinct on ({}) * from {} where known_at <= {}::timestamptz"
        " order by {}, known_at desc) as newest where not is_retracted"
    ).format(pair, sql.Identifier("published", name), str(known_at or "infinity"), pair)


def _keep(connection: psycopg.Connection, name: str, view: View) -> int:
    """Keep the rows as they are now; how many there are."""
    connection.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(KEPT)))
    kept = sql.SQL("create table {} as {}").format(
        sql.Identifier(KEPT, name), _newest(name, view, None)
    )
    return connection.execute(kept).rowcount


def _moved(
    connection: psycopg.Connection,
    views: dict[str, View],
    known_at: datetime | None,
    cut: date | None,
    cause: str,
) -> list[Leak]:
    """Each column in which a row up to `cut` is not what was kept; exact, null-safe."""
    leaks = []
    for name, view in views.items():
        values: list[sql.Composable] = [
            sql.SQL("({}, before.{}::text, after.{}::text)").format(
                sql.Literal(column), sql.Identifier(column), sql.Identifier(column)
            )
            for column in view.columns
        ]
        values.append(sql.SQL("('the row', before.as_of::text, after.as_of::text)"))
        limit: sql.Composable = sql.SQL("true")
        if cut:
            limit = sql.SQL("as_of <= {}::timestamptz").format(histories.midnight(cut).isoformat())
        query = sql.SQL(
            "select distinct on (name) name, old, new, count(*) over (partition by name), as_of, "
            "{keys} from {before} before full join ({after}) after using ({keys}, as_of) "
            "cross join lateral (values {values}) as compared (name, old, new) "
            "where old is distinct from new and {limit} order by name, as_of, {keys}"
        ).format(
            keys=_names(view.keys),
            before=sql.Identifier(KEPT, name),
            after=_newest(name, view, known_at),
            values=sql.SQL(", ").join(values),
            limit=limit,
        )
        try:
            found = connection.execute(query).fetchall()
        except psycopg.errors.UndefinedTable:
            raise LeakCheckError(
                f"published.{name} is gone after a second run: {name} replaces its table, and with "
                "it what was known before. Make it incremental and append-only, as the others are"
            ) from None
        leaks += [
            Leak(name, column, ", ".join(map(str, key)), as_of, old, new, rows, cause)
            for column, old, new, rows, as_of, *key in found
        ]
    return leaks


def _empty(connection: psycopg.Connection) -> None:
    """Every row out, as in a new database."""
    tables = connection.execute(
        "select schemaname, tablename from pg_tables"
        " where schemaname in ('raw', 'staging', 'features', 'ledger')"
    ).fetchall()
    names = sql.SQL(", ").join(sql.Identifier(*table) for table in tables)
    connection.execute(sql.SQL("truncate {} restart identity cascade").format(names))


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 when a model leaks."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestration leak-check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--project", type=Path, default=DBT_PROJECT, help="dbt project")
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--rounds", type=int, default=1, help="histories to try, one after another")
    parser.add_argument("--users", type=int, default=USERS)
    options = parser.parse_args(arguments)
    for seed in range(options.seed, options.seed + options.rounds):
        with steps.told_as("leak-check", "make leak-check"):
            result = check(options.project, seed, options.users)
        print(result, flush=True)
        if not result.passed:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
