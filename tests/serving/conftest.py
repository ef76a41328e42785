"""Fixtures: the hand-made online store, whole and as a copy, and the API in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from data.database import Database
from data.postgres.server import EmbeddedServer
from data.postgres.setup import set_up
from serving.main import create_app
from serving.settings import Settings
from tests.serving.hand_made import fill, running
from tests.serving.processes import api


def _database(name: str, template: str | None = None) -> Database:
    """A new database of that name: a copy, or with the project's schemas."""
    settings = Database().model_copy(update={"database": name})
    admin = settings.model_copy(update={"database": "postgres"})
    with psycopg.connect(admin.conninfo(), autocommit=True) as connection:
        connection.execute(f"drop database if exists {name} with (force)")
        connection.execute(f"create database {name} template {template or 'template1'}")
    if template is None:
        set_up(settings)
    return settings


@pytest.fixture(scope="session")
def _template(server: EmbeddedServer) -> str:
    """The hand-made store, to be copied: nobody may be connected to it."""
    settings = _database("serving_template")
    fill(settings)
    return settings.database


@pytest.fixture(scope="session")
def _hand_made(_template: str) -> Database:
    return _database("serving_hand_made", _template)


@pytest.fixture
def online(_hand_made: Database) -> Database:
    """The hand-made online store, to be read only."""
    return _hand_made


@pytest.fixture(scope="session")
def quick_api(
    _hand_made: Database, free_port: Callable[[], int], session_folder: Path
) -> Iterator[int]:
    """Port of a running API over the hand-made store, with a short time limit."""
    port = free_port()
    with api(_hand_made, port, session_folder / "quick-api.log", timeout=0.5):
        yield port


@pytest.fixture
def own_online(_template: str) -> Database:
    """A copy of the hand-made online store, to be changed."""
    return _database("serving_own", _template)


@pytest.fixture
def ask(online: Database) -> Callable[..., list[httpx.Response]]:
    """Sends requests (method, url, options) to an app of its own over `online`; the answers."""

    def send(*requests: tuple[Any, ...], database: Database = online, **settings: Any) -> Any:
        async def run() -> list[httpx.Response]:
            async with running(create_app(Settings(**settings), database)) as client:
                return [
                    await client.request(method, url, **(options[0] if options else {}))
                    for method, url, *options in requests
                ]

        return asyncio.run(run())

    return send
