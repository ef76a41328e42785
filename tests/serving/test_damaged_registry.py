"""A registry that cannot be read: the API goes on with the one before, and says so."""

from __future__ import annotations

import asyncio

import pytest

from data.database import Database
from serving.main import create_app
from serving.settings import Settings
from tests.serving.hand_made import registry, running, store_registry


def damage(database: Database, how: str) -> None:
    with database.connect() as connection:
        connection.execute(f"update online.registry set blob = {how}")


CUT, EMPTY, OTHER = "substr(blob, 1, length(blob) / 2)", "''", "'\\xdeadbeef'"


@pytest.mark.parametrize("how", [CUT, EMPTY, OTHER])
def test_what_is_known_is_served_and_ready_names_the_state(own_online: Database, how: str) -> None:
    async def run() -> None:
        async with running(create_app(Settings(), own_online)) as client:
            before = (await client.get("/features/u00001")).json()["features"]
            assert (await client.get("/ready")).json() == {"status": "ok"}
            damage(own_online, how)
            reloaded = await client.post("/-/reload")
            assert reloaded.status_code == 503
            assert reloaded.json()["type"].endswith("registry-damaged")
            assert "feast apply" in reloaded.json()["detail"]
            assert (await client.get("/features/u00001")).json()["features"] == before
            ready = await client.get("/ready")
            assert ready.status_code == 200
            assert "damaged" in ready.json()["registry"]
            store_registry(own_online, registry())
            assert (await client.post("/-/reload")).status_code == 200
            assert (await client.get("/ready")).json() == {"status": "ok"}

    asyncio.run(run())


def test_a_process_that_knows_nothing_yet_says_what_is_wrong(own_online: Database) -> None:
    async def run() -> None:
        damage(own_online, CUT)
        async with running(create_app(Settings(), own_online)) as client:
            for path in ("/ready", "/features/u00001"):
                answer = await client.get(path)
                assert answer.status_code == 503
                assert answer.json()["type"].endswith("registry-damaged")
            store_registry(own_online, registry())
            await client.post("/-/reload")
            assert (await client.get("/ready")).status_code == 200

    asyncio.run(run())
