"""The API answers what Feast answers: every user, every value, every status.

If this fails, a model gets other numbers from the API than from `get_online_features`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from feast import FeatureStore
from feast.feature_server_utils import convert_response_to_dict
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

from data.database import Database
from data.paths import FEATURE_REPO as REPO
from serving.main import create_app
from serving.settings import Settings
from streamflow_feast.dbt.feast_objects import apply_definitions
from streamflow_feast.kinds import BY_FEAST_TYPE, TYPE_TAG, from_value
from tests.serving.hand_made import running
from tests.serving.processes import api

Key = tuple[str, ...]  # of an entity: its join keys' values
Answers = dict[tuple[Key, str], tuple[Any, str]]  # (entity, feature) -> value, status
Rows = list[dict[str, Any]]
USERS, DEVICES = ["churn_v1", "all_features"], ["devices"]


def of_feast(store: FeatureStore, service: str, rows: Rows) -> Answers:
    """What get_online_features says."""
    made = store.get_online_features(features=store.get_feature_service(service), entity_rows=rows)
    names = list(made.proto.metadata.feature_names.val)
    values = {name: made.proto.results[place].values for place, name in enumerate(names)}
    kinds = {
        field.name: field.tags.get(TYPE_TAG) or BY_FEAST_TYPE[field.dtype]
        for view in store.list_feature_views()
        for field in view.features
    }
    return {
        (tuple(row.values()), name): (
            _json(kinds[name], from_value(kinds[name], values[name][place])),
            FieldStatus.Name(made.proto.results[column].statuses[place]),
        )
        for column, name in enumerate(names)
        if name not in rows[0]
        for place, row in enumerate(rows)
    }


def _json(kind: str, value: Any) -> Any:
    """A value as the API's JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, Decimal | date | UUID):
        return format(value, "f") if isinstance(value, Decimal) else str(value)
    return json.loads(value) if kind == "jsonb" and value is not None else value


def of_the_api(database: Database, rows: dict[str, Rows], **settings: Any) -> dict[str, Answers]:
    """The same of the API, for services and rows of keys."""

    async def run() -> dict[str, Answers]:
        async with running(create_app(Settings(**settings), database), timeout=30) as client:
            catalogue = (await client.get("/catalogue")).json()
            assert {service["name"] for service in catalogue["services"]} == {
                *USERS,
                *DEVICES,
                "retention_offers",
            }
            found = {}
            for service in catalogue["services"]:
                name = service["name"]
                if name not in rows:
                    continue
                body = {"service": name, "entities": rows[name]}
                answers = (await client.post("/entities/features", json=body)).json()["results"]
                if name in USERS:  # the older form of the same
                    body = {"service": name, "user_ids": [row["user_id"] for row in rows[name]]}
                    older = (await client.post("/features", json=body)).json()["results"]
                    for answer, same in zip(answers, older, strict=True):
                        assert answer["entity"] == {"user_id": same["user_id"]}
                        assert answer["features"] == same["features"]
                views = {f["name"]: v["name"] for v in service["views"] for f in v["features"]}
                found[name] = _statuses(answers, views)
            return found

    return asyncio.run(run())


def _statuses(answers: list[dict[str, Any]], view_of: dict[str, str]) -> Answers:
    feast = {"unknown": "NOT_FOUND", "older_than_ttl": "OUTSIDE_MAX_AGE"}

    def status(value: Any, view: str) -> str:
        return feast.get(view, "NULL_VALUE" if value is None else "PRESENT")

    return {
        (tuple(answer["entity"].values()), name): (
            value,
            status(value, answer["views"][view_of[name]]["status"]),
        )
        for answer in answers
        for name, value in answer["features"].items()
    }


def everyone(database: Database) -> dict[str, Rows]:
    """All users online, and two who are not; devices of users, and pairs that never were."""
    with database.connect() as connection:
        users = [
            user
            for (user,) in connection.execute("select user_id from online.user_features order by 1")
        ]
        pairs = connection.execute(
            "select user_id, device_id from online.user_device_features order by 1, 2 limit 900"
        ).fetchall()
    assert len(users) > 200
    assert len(pairs) > 200
    of_users = [{"user_id": user} for user in [*users, "nobody", "~"]]
    pairs += [(pairs[0][0], pairs[-1][1]), ("nobody", pairs[0][1]), (pairs[0][0], "no-device")]
    of_devices = [{"user_id": user, "device_id": device} for user, device in pairs]
    return {**dict.fromkeys(USERS, of_users), **dict.fromkeys(DEVICES, of_devices)}


def test_postgres(sample: Database) -> None:
    rows = everyone(sample)
    store = FeatureStore(repo_path=str(REPO))
    answered = of_the_api(sample, rows)
    for service, answers in answered.items():
        expected = of_feast(store, service, rows[service])
        assert len(expected) > 2 * len(rows[service])
        differing = {k: (answers.get(k), v) for k, v in expected.items() if answers.get(k) != v}
        assert not differing, list(differing.items())[:5]
        assert len(answers) == len(expected)
        assert {"PRESENT", "NOT_FOUND"} <= {s for _, s in answers.values()}


def test_after_ttl(sample: Database) -> None:
    """A view whose rows have expired: Feast and the API withhold the same values."""
    rows = {"all_features": everyone(sample)["all_features"]}
    store = FeatureStore(repo_path=str(REPO))
    view = store.get_feature_view("usage_features")
    view.ttl = timedelta(hours=1)
    store.apply(view)
    answers = of_the_api(sample, rows)["all_features"]
    assert answers == of_feast(
        FeatureStore(repo_path=str(REPO)), "all_features", rows["all_features"]
    )
    assert "OUTSIDE_MAX_AGE" in {status for _, status in answers.values()}


@pytest.mark.parametrize("full", [False, True])
def test_feasts_own_form(sample: Database, full: bool) -> None:
    """The same answer as Feast's feature server gives, but for the time of writing."""
    rows = everyone(sample)
    store = FeatureStore(repo_path=str(REPO))
    asked: list[dict[str, Any]] = [
        {"feature_service": service, "entities": _columns(rows[service])} for service in rows
    ]
    asked.append(
        {
            "features": ["user_features:tenure_days", "subscription_features:total_paid"],
            "entities": _columns(rows["churn_v1"]),
        }
    )

    async def run() -> list[dict[str, Any]]:
        async with running(create_app(Settings(), sample), timeout=30) as client:
            sent = [body | {"full_feature_names": full} for body in asked]
            return [(await client.post("/get-online-features", json=body)).json() for body in sent]

    for body, answer in zip(asked, asyncio.run(run()), strict=True):
        features = body.get("features") or store.get_feature_service(body["feature_service"])
        made = store.get_online_features(features, body["entities"], full_feature_names=full)
        feast = convert_response_to_dict(made.proto)
        assert _by_name(answer) == _by_name(feast)


def test_on_demand(sample: Database) -> None:
    """One code: Feast, the API's routes and Feast's form compute the same, to the bit."""
    users = [row["user_id"] for row in everyone(sample)["all_features"]]
    rows: Rows = [
        {"user_id": user, "offered_fee": None if n % 7 == 0 else n / 3}
        for n, user in enumerate(users)
    ]
    store = FeatureStore(repo_path=str(REPO))
    made = store.get_online_features(store.get_feature_service("retention_offers"), _columns(rows))
    expected = made.to_dict()
    there = [value is not None for value in expected["fee_per_watch_hour"]]
    assert sum(there) > 100
    assert not all(there)

    async def run() -> tuple[list[Any], list[Any], Any, list[Any]]:
        async with running(create_app(Settings(), sample), timeout=30) as client:
            body: dict[str, Any] = {"service": "retention_offers", "entities": rows}
            many = (await client.post("/entities/features", json=body)).json()["results"]
            ones = [
                await client.get(
                    f"/features/{row['user_id']}",
                    params={"service": "retention_offers", "offered_fee": repr(row["offered_fee"])},
                )
                for row in rows
                if row["offered_fee"] is not None
            ]
            body = {"feature_service": "retention_offers", "entities": _columns(rows)}
            form = (await client.post("/get-online-features", json=body)).json()
            bad = [
                await client.get("/features/x?service=retention_offers"),
                await client.get("/features/x?service=retention_offers&offered_fee=cheap"),
                await client.get("/features/x?service=retention_offers&offered_fee=1&other=1"),
                await client.post(
                    "/features", json={"service": "retention_offers", "user_ids": ["x"]}
                ),
            ]
            return many, ones, form, bad

    many, ones, form, bad = asyncio.run(run())
    names = (
        "monthly_fee",
        "contract_type",
        "watch_hours_30d",
        "fee_per_watch_hour",
        "offered_discount",
    )
    for place, answer in enumerate(many):
        assert answer["features"] == {name: expected[name][place] for name in names}
    there = [
        answer for answer, row in zip(many, rows, strict=True) if row["offered_fee"] is not None
    ]
    for one, answer in zip(ones, there, strict=True):
        assert one.json()["features"] == answer["features"]
        assert "etag" not in one.headers
    assert _by_name(form) == _by_name(convert_response_to_dict(made.proto))
    assert [answer.status_code for answer in bad] == [422] * 4
    assert "offered_fee, which is missing" in bad[0].json()["detail"]
    assert "expected a Float64" in bad[1].json()["detail"]
    assert "Unknown query parameter: other" in bad[2].json()["detail"]


def _columns(rows: Rows) -> dict[str, list[Any]]:
    return {key: [row[key] for row in rows] for key in rows[0]}


def _by_name(answer: dict[str, Any]) -> dict[str, Any]:
    return dict(zip(answer["metadata"]["feature_names"], answer["results"], strict=True))


def test_feasts_remote_online_store(
    sample: Database, free_port: Callable[[], int], tmp_path: Path
) -> None:
    """Feast's own client of a feature server, with this API as the server."""
    rows = everyone(sample)
    port = free_port()
    yaml = tmp_path / "feature_store.yaml"
    ours = (REPO / "feature_store.yaml").read_text()
    yaml.write_text(
        ours.replace(
            "type: streamflow_feast.online.store.StreamflowOnlineStore",
            f"type: remote\n  path: http://127.0.0.1:{port}",
        )
    )
    with api(sample, port, tmp_path / "api.log", timeout=20):
        client = FeatureStore(repo_path=str(REPO), fs_yaml_file=yaml)
        store = FeatureStore(repo_path=str(REPO))
        # (Not of all_features: its client cannot take an empty list, whoever answers.)
        for service in ("churn_v1", *DEVICES):
            asked = [row for row in rows[service] if len(row) == 1] or rows[service]
            theirs = client.get_online_features(client.get_feature_service(service), asked[-50:])
            ours_ = store.get_online_features(store.get_feature_service(service), asked[-50:])
            # JSON has no decimal and no instant: Feast's client gives a text and a number.
            assert theirs.to_dict() == {
                name: [_transported(value) for value in values]
                for name, values in ours_.to_dict().items()
            }


def _transported(value: Any) -> Any:
    if isinstance(value, datetime):
        return int(value.timestamp())
    return str(value) if isinstance(value, Decimal) else value


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
    rows = everyone(sample)
    store = FeatureStore(repo_path=str(REPO), fs_yaml_file=redis_yaml)
    apply_definitions(store)
    store.materialize_incremental(end_date=datetime.now(timezone.utc))
    answered = of_the_api(sample, rows, feature_store=redis_yaml, timeout=20)
    assert set(answered) == set(rows)
    for service, answers in answered.items():
        expected = of_feast(store, service, rows[service])
        assert {k: v for k, (v, _) in answers.items()} == {k: v for k, (v, _) in expected.items()}
        # Stock Feast's Redis store says PRESENT of a null, and of a user nobody knows. The API
        # tells them apart.
        assert {status for _, status in expected.values()} == {"PRESENT"}
        for (key, name), (value, status) in answers.items():
            if service in USERS:
                unknown = key[0] in ("nobody", "~")
                wanted = "NOT_FOUND" if unknown else "NULL_VALUE" if value is None else "PRESENT"
                assert status == wanted, (key, name)


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
