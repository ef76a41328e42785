"""The API answers what Feast answers: every user, every value, every status.

If this fails, a model gets other numbers from the API than from `get_online_features`.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureStore
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

from data.database import Database
from data.paths import FEATURE_REPO as REPO
from serving.main import create_app
from serving.settings import Settings
from streamflow_feast.dbt.feast_objects import apply_definitions
from tests.serving.hand_made import running

Answers = dict[tuple[str, str], tuple[Any, str]]  # (user, feature) -> value, status
BATCH = 1000


def of_feast(store: FeatureStore, service: str, users: list[str]) -> Answers:
    """What get_online_features says."""
    made = store.get_online_features(
        features=store.get_feature_service(service),
        entity_rows=[{"user_id": user} for user in users],
    )
    values = made.to_dict()
    names = list(made.proto.metadata.feature_names.val)
    return {
        (user, name): (
            values[name][place],
            FieldStatus.Name(made.proto.results[column].statuses[place]),
        )
        for column, name in enumerate(names)
        if name != "user_id"
        for place, user in enumerate(users)
    }


def of_the_api(
    database: Database, users: list[str], **settings: Any
) -> tuple[dict[str, Answers], dict[str, Any]]:
    """The same of the API, a service, and its catalogue."""

    async def run() -> tuple[dict[str, Answers], dict[str, Any]]:
        async with running(create_app(Settings(**settings), database), timeout=30) as client:
            catalogue = (await client.get("/catalogue")).json()
            return {
                service["name"]: _statuses(
                    (
                        await client.post(
                            "/features", json={"user_ids": users, "service": service["name"]}
                        )
                    ).json(),
                    {
                        f["name"]: view["name"]
                        for view in service["views"]
                        for f in view["features"]
                    },
                )
                for service in catalogue["services"]
            }, catalogue

    return asyncio.run(run())


def _statuses(body: dict[str, Any], view_of: dict[str, str]) -> Answers:
    feast = {"unknown": "NOT_FOUND", "older_than_ttl": "OUTSIDE_MAX_AGE"}

    def status(value: Any, view: str) -> str:
        return feast.get(view, "NULL_VALUE" if value is None else "PRESENT")

    return {
        (answer["user_id"], name): (value, status(value, answer["views"][view_of[name]]["status"]))
        for answer in body["results"]
        for name, value in answer["features"].items()
    }


def everyone(database: Database) -> list[str]:
    """All users online, and two who are not."""
    with database.connect() as connection:
        rows = connection.execute("select user_id from online.user_features order by 1").fetchall()
    assert len(rows) > 200
    return [user for (user,) in rows] + ["nobody", "~"]


def test_postgres(sample: Database) -> None:
    users = everyone(sample)
    store = FeatureStore(repo_path=str(REPO))
    answered, _ = of_the_api(sample, users)
    assert set(answered) == {"churn_v1", "all_features"}
    for service, answers in answered.items():
        expected = of_feast(store, service, users)
        assert len(answers) == len(users) * (16 if service == "churn_v1" else 28)
        differing = {k: (answers.get(k), v) for k, v in expected.items() if answers.get(k) != v}
        assert not differing, list(differing.items())[:5]
        assert {s for _, s in answers.values()} == {"PRESENT", "NULL_VALUE", "NOT_FOUND"}


def test_after_ttl(sample: Database) -> None:
    """A view whose rows have expired: Feast and the API withhold the same values."""
    from datetime import timedelta

    users = everyone(sample)
    store = FeatureStore(repo_path=str(REPO))
    view = store.get_feature_view("usage_features")
    view.ttl = timedelta(hours=1)
    store.apply(view)
    answers = of_the_api(sample, users)[0]["all_features"]
    assert answers == of_feast(FeatureStore(repo_path=str(REPO)), "all_features", users)
    assert "OUTSIDE_MAX_AGE" in {status for _, status in answers.values()}


@pytest.fixture
def redis_yaml(free_port: Callable[[], int], tmp_path: Path) -> Iterator[Path]:
    """The project's second feature_store yaml, on a Redis server of the test's own."""
    if shutil.which("redis-server") is None:
        pytest.skip("NOT TESTED: no redis-server here; apt-get install redis-server")
    port = free_port()
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    try:
        import redis

        for _ in range(100):
            try:
                redis.Redis(port=port).ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        text = (REPO / "feature_store.redis.yaml").read_text()
        yaml = tmp_path / "feature_store.yaml"
        yaml.write_text(text.replace("127.0.0.1:6379", f"127.0.0.1:{port}"))
        yield yaml
    finally:
        server.terminate()
        server.wait(10)


def test_redis(sample: Database, redis_yaml: Path) -> None:
    users = everyone(sample)
    store = FeatureStore(repo_path=str(REPO), fs_yaml_file=redis_yaml)
    apply_definitions(store)
    store.materialize_incremental(end_date=datetime.now(timezone.utc))
    answered, _ = of_the_api(sample, users, feature_store=redis_yaml, timeout=20)
    assert set(answered) == {"churn_v1", "all_features"}
    for service, answers in answered.items():
        expected = of_feast(store, service, users)
        assert {k: v for k, (v, _) in answers.items()} == {k: v for k, (v, _) in expected.items()}
        # Stock Feast's Redis store says PRESENT of a null, and of a user nobody knows. The API
        # tells them apart.
        assert {status for _, status in expected.values()} == {"PRESENT"}
        for (user, name), (value, status) in answers.items():
            unknown = user in ("nobody", "~")
            wanted = "NOT_FOUND" if unknown else "NULL_VALUE" if value is None else "PRESENT"
            assert status == wanted, (user, name)


def test_redis_gone_and_back(sample: Database, redis_yaml: Path) -> None:
    """Without a server: a problem in time, and no more than asked about the page's data."""

    async def run() -> None:
        yaml = redis_yaml.with_name("gone.yaml")
        yaml.write_text((REPO / "feature_store.redis.yaml").read_text().replace(":6379", ":1"))
        store = FeatureStore(repo_path=str(REPO), fs_yaml_file=redis_yaml)
        apply_definitions(store)
        settings = Settings(feature_store=yaml)
        async with running(create_app(settings, sample), timeout=30) as client:
            started = time.monotonic()
            answer = await client.get("/features/nobody")
            assert time.monotonic() - started < 1
            assert (answer.status_code, answer.json()["type"]) == (
                503,
                "/docs#problem-store-unavailable",
            )
            assert (await client.get("/ready")).status_code == 503
            assert (await client.get("/health")).status_code == 200
            assert (await client.get("/distributions")).status_code == 501

    asyncio.run(run())
