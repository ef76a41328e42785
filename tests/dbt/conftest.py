"""Databases for tests that run dbt."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from data.database import Database
from tests.dbt import builds, histories
from tests.dbt.known import Delivery

LOADED = 4  # deliveries of `built`; the next is a late drop with users


@pytest.fixture
def shared(database: Database, session_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """An empty database; what dbt has parsed is kept from one test to the next."""
    monkeypatch.setenv("DBT_TARGET_PATH", str(session_folder / "dbt-target"))
    return database


@dataclass
class Built:
    """A database that was built once, what was loaded into it, and what comes next."""

    loaded: list[Delivery]
    later: list[Delivery]
    known_at: datetime

    def deliver(self) -> None:
        """Load the next delivery."""
        self.loaded.append(self.later.pop(0))
        builds.deliver(self.loaded[-1])


@pytest.fixture(scope="session")
def first_build() -> dict[str, datetime]:
    """Filled by the first test that asks for `built`."""
    return {}


@pytest.fixture
def built(shared: Database, first_build: dict[str, datetime]) -> Built:
    """Twenty histories, the first deliveries loaded and built."""
    deliveries = list(histories.draw(seed=20, users=20).deliveries)
    if not first_build:
        for delivery in deliveries[:LOADED]:
            builds.deliver(delivery)
        outcome = builds.build()
        assert outcome.success, outcome.output[-4000:]
        first_build["known_at"] = builds.newest_publication()
        _copy(shared.database, "template_built")
    else:
        _copy("template_built", shared.database)
    return Built(deliveries[:LOADED], deliveries[LOADED:], first_build["known_at"])


def _copy(source: str, name: str) -> None:
    admin = Database().model_copy(update={"database": "postgres"})
    with psycopg.connect(admin.conninfo(), autocommit=True) as connection:
        for statement in (
            "drop database if exists {name} with (force)",
            # Pools of earlier tests, which find a database of that name again, keep it in use.
            "alter database {source} allow_connections false",
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = {literal}",
            "create database {name} template {source}",
            "alter database {source} allow_connections true",
        ):
            connection.execute(
                sql.SQL(statement).format(
                    name=sql.Identifier(name),
                    source=sql.Identifier(source),
                    literal=sql.Literal(source),
                )
            )


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy of the dbt project in which some texts are replaced."""

    def copy(*changes: tuple[str, str, str]) -> Path:
        folder = tmp_path / "dbt_project"
        if not folder.exists():
            ignored = shutil.ignore_patterns("target", "logs")
            shutil.copytree(builds.PROJECT, folder, ignore=ignored)
        for path, old, new in changes:
            text = (folder / path).read_text()
            assert text.count(old) == 1, f"{path} holds {old!r} {text.count(old)} times"
            (folder / path).write_text(text.replace(old, new))
        return folder

    return copy
