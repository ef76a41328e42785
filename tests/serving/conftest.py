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
from data.server import EmbeddedServer
from data.setup import set_up
from serving.main import create_app
from serving.settings import Settings
from tests.serving.hand_made import fill, running
from tests.serving.processes import api


@pytest.fixture(scope="session")
def _hand_made(server: EmbeddedServer) -> Database:
    """The template; tests get it when they promise to leave it as it is."""
    settings = Database().model_copy(update={"database": "serving_hand_made"})
    EmbeddedServer(settings).create_database()
    set_up(settings)
    fill(settings)
    return settings


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
def own_online(_hand_made: Database) -> Iterator[Database]:
    """A copy of the hand-made online store, to be changed."""
    settings = _hand_made.model_copy(update={"database": "serving_own"})
    admin = _hand_made.model_copy(update={"database": "postgres"})
    with psycopg.connect(admin.conninfo(), autocommit=True) as connection:
        connection.execute("drop database if exists serving_own with (force)")
        connection.execute("create database serving_own template serving_hand_made")
        yield settings
        connection.execute("drop database serving_own with (force)")


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
