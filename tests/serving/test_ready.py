"""What stands between the API and its answers, told apart: in the log once, at /ready always."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest
from pydantic import SecretStr

from data.database import Database
from serving.main import create_app
from serving.settings import Settings
from tests.serving.hand_made import running

Change = dict[str, object]


def asked(database: Database, path: str = "/ready", seconds: float = 0.0) -> httpx.Response:
    async def run() -> httpx.Response:
        async with running(create_app(Settings(refresh=0.1), database)) as client:
            await asyncio.sleep(seconds)
            return await client.get(path)

    return asyncio.run(run())


def kind(answer: httpx.Response) -> str:
    return str(answer.json()["type"]).removeprefix("/docs#problem-")


def warnings(output: str) -> list[str]:
    lines = [json.loads(line) for line in output.splitlines()]
    return [x["message"] for x in lines if x["level"] == "warning"]


@pytest.mark.parametrize(
    ("change", "wanted", "words", "said"),
    [
        ({"serving_password": SecretStr("hunter2")}, "login-refused", "SERVING_PASSWORD",
         "password authentication failed"),
        ({"serving_user": "nobody_at_all"}, "login-refused", "SERVING_PASSWORD", "nobody_at_all"),
        ({"database": "nowhere"}, "no-database", "make up", "does not exist"),
        ({"port": 1}, "store-unavailable", "does not answer", "refused"),
        ({"sslmode": "require"}, "store-unavailable", "SSLMODE", "SSL"),
    ],
)  # fmt: skip
def test_why_there_is_no_connection(
    online: Database, change: Change, wanted: str, words: str, said: str, capsys: Any
) -> None:
    """One warning with libpq's own text, however often it is tried; no secret anywhere."""
    answer = asked(online.model_copy(update=change), seconds=1.0)
    output = capsys.readouterr().out
    assert (answer.status_code, kind(answer)) == (503, wanted)
    assert words in answer.json()["detail"]
    assert said not in answer.text.replace("SSLMODE", "")
    [warning] = warnings(output)
    assert said in warning
    assert "hunter2" not in output + answer.text


@pytest.mark.parametrize(
    ("change", "wanted", "words"),
    [
        ("drop table online.registry", "no-registry", "feast apply"),
        ("drop schema online cascade", "not-set-up", "make up"),
        ("truncate online.registry", "no-registry", "feast apply"),
        ("drop table online.watch_features", "store-mismatch", "feast apply"),
        ("revoke select on online.watch_features from streamflow_serving", "not-permitted",
         "make up"),
        ("revoke select on online.registry from streamflow_serving", "not-permitted", "make up"),
    ],
)  # fmt: skip
def test_what_the_database_lacks(
    own_online: Database, change: str, wanted: str, words: str, capsys: Any
) -> None:
    with own_online.connect() as connection:
        connection.execute(change)
    answer = asked(own_online, seconds=0.5)
    assert (answer.status_code, kind(answer)) == (503, wanted)
    assert words in answer.json()["detail"]
    assert "relation" not in answer.text
    assert len(warnings(capsys.readouterr().out)) <= 2


def test_a_default_service_that_is_not_there(online: Database) -> None:
    async def run() -> httpx.Response:
        async with running(create_app(Settings(service="churn_v9"), online)) as client:
            return await client.get("/ready")

    answer = asyncio.run(run())
    assert (answer.status_code, kind(answer)) == (503, "unknown-service")
    assert "churn_v9" in answer.json()["detail"]


def test_a_password_that_rotates_under_a_running_api(own_online: Database, capsys: Any) -> None:
    """Locked out and let in again: a line each in the log, and no restart."""
    role = own_online.model_copy(
        update={"serving_user": "rotating", "serving_password": SecretStr("old")}
    )
    with psycopg.connect(own_online.conninfo(), autocommit=True) as admin:
        admin.execute("create role rotating login password 'old' in role streamflow_serving")
        try:
            asyncio.run(_rotate(role, admin.execute))
        finally:
            admin.execute("drop role rotating")
    lines = [json.loads(x) for x in capsys.readouterr().out.splitlines()]
    said = [x.get("message", "") for x in lines]
    assert len([x for x in said if "authentication failed" in x]) == 1
    assert said.count("connected to the database again") == 1


async def _rotate(role: Database, execute: Callable[[str], object]) -> None:
    async with running(create_app(Settings(refresh=0.1), role)) as client:
        assert (await client.get("/ready")).status_code == 200
        execute("alter role rotating password 'new'")
        execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'rotating'")
        await _until(client, lambda answer: "login-refused" in answer.text)
        execute("alter role rotating password 'old'")
        await _until(client, lambda answer: answer.status_code == 200)


async def _until(client: httpx.AsyncClient, condition: Callable[[httpx.Response], bool]) -> None:
    for _ in range(50):
        await asyncio.sleep(0.2)
        answer = await client.get("/ready")
        if condition(answer):
            return
    pytest.fail(answer.text)


def test_the_size_of_an_online_table_holds_nothing_up(own_online: Database) -> None:
    """Ages and provenance go on however many rows there are, or who locks them: the rows of the
    online tables are not asked for anything but vectors."""
    with contextlib.ExitStack() as stack:
        holder = stack.enter_context(psycopg.connect(own_online.conninfo()))
        holder.execute("lock table online.plan_features, online.watch_features,"
                       " online.fresh_features in access exclusive mode")  # fmt: skip
        text = asked(own_online, "/metrics", seconds=0.3).text
    assert 'streamflow_features_age_seconds{view="plan_features"}' in text
    assert "streamflow_refreshed_seconds Inf" not in text.replace("+Inf", "Inf")
