"""Features of other entities than the user: one key or several, of each type, and values of all.

If this fails, a device is answered with another device's values, or with none, or a value is not
what the online store holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from feast import Entity, FeatureService, FeatureView, Field
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.types import Array, Decimal, Float64, Int64, Json, String, UnixTimestamp, Uuid

from data.database import Database
from streamflow_feast.views import key_field
from tests.serving.hand_made import (
    AS_OF,
    KNOWN_AT,
    PUBLISHED_AT,
    feature_views,
    registry,
    store_registry,
)

Ask = Callable[..., list[httpx.Response]]
TOKEN = UUID("0bd0cd1f-6a3c-4a0a-8d5c-0a8e0a1c9d11")
TABLES = """
create table online.device_features (
    device_id text primary key, users_30d bigint,
    as_of timestamptz not null, known_at timestamptz, published_at timestamptz
);
create table online.pair_features (
    user_id text, account_id bigint, share double precision, primary key (user_id, account_id),
    as_of timestamptz not null, known_at timestamptz, published_at timestamptz
);
create table online.typed_features (
    token uuid primary key, amount numeric(38,4), day date, seen_at timestamptz, id uuid,
    notes jsonb, words text[], vector double precision[],
    as_of timestamptz not null, known_at timestamptz, published_at timestamptz
);
insert into online.typed_features values (
    '0bd0cd1f-6a3c-4a0a-8d5c-0a8e0a1c9d11', 1234567890123456789012345678901234.5600, '2024-02-29',
    '2024-02-29 23:59:59+00', '00000000-0000-0000-0000-00000000000a',
    '{"a": [1.10, 12345678901234567890123], "b": null}', '{a,"b c"}', '{0.1,NaN}',
    '2024-02-29+00', '2024-03-01 01:12:03.456789+00', '2024-03-01 01:20:00+00'
), (
    '00000000-0000-0000-0000-000000000001', null, null, null, null, null, null, null,
    '2024-02-29+00', '2024-03-01 01:12:03.456789+00', '2024-03-01 01:20:00+00'
);
"""


def view(name: str, keys: dict[str, str], entity: str, **features: Any) -> FeatureView:
    columns = [key_field(key, kind, "") for key, kind in keys.items()]
    entities = [
        Entity(name=key.name, join_keys=[key.name], value_type=key.dtype.to_value_type())
        for key in columns
    ]
    fields = [
        Field(name=feature, dtype=kind[0], tags={"postgres_type": kind[1]})
        if isinstance(kind, tuple)
        else Field(name=feature, dtype=kind)
        for feature, kind in features.items()
    ]
    return FeatureView(
        name=name,
        entities=entities,
        schema=[*columns, *fields],
        source=PostgreSQLSource(name=name, table=f"published.{name}", timestamp_field="as_of"),
        ttl=timedelta(0),
        tags={"dbt_entity": entity},
    )


@pytest.fixture
def entities(own_online: Database) -> Database:
    """The hand-made store with a device, a pair of keys, and a view of every other type."""
    clocks = (AS_OF, KNOWN_AT, PUBLISHED_AT)
    with own_online.connect() as connection:
        connection.execute(TABLES)
        for user, account, share in (("1", 23, 0.25), ("12", 3, 0.5), ("7590-VHVEG", 2**62, 1.0)):
            connection.execute(
                "insert into online.pair_features values (%s, %s, %s, %s, %s, %s)",
                [user, account, share, *clocks],
            )
        connection.execute(
            "insert into online.device_features values ('d 1/2', 3, %s, %s, %s)", clocks
        )
    views = feature_views()
    device = view("device_features", {"device_id": "text"}, "device", users_30d=Int64)
    pair = view("pair_features", {"user_id": "text", "account_id": "bigint"}, "pair", share=Float64)
    typed = view(
        "typed_features",
        {"token": "uuid"},
        "token",
        amount=(Decimal, "numeric(38,4)"),
        day=(UnixTimestamp, "date"),
        seen_at=(UnixTimestamp, "timestamp with time zone"),
        id=Uuid,
        notes=(Json, "jsonb"),
        words=Array(String),
        vector=Array(Float64),
    )
    views |= {made.name: made for made in (device, pair, typed)}
    services = [
        FeatureService(name="devices", features=[device]),
        FeatureService(name="pairs", features=[pair, views["plan_features"]]),
        FeatureService(name="mixed", features=[pair, device, views["watch_features"]]),
        FeatureService(name="typed", features=[typed]),
    ]
    store_registry(own_online, registry(*services, views=views))
    return own_online


def test_one_entity_by_its_keys(entities: Database, ask: Ask) -> None:
    device, pair, nobody = ask(
        ("GET", "/entities/device/features", {"params": {"device_id": "d 1/2"}}),
        ("GET", "/entities/pair/features?user_id=7590-VHVEG&account_id=4611686018427387904"),
        ("GET", "/entities/device/features?device_id=other"),
        database=entities,
    )
    assert device.json() == {
        "entity": {"device_id": "d 1/2"},
        "found": True,
        "service": "devices",
        "as_of": "2024-02-29T00:00:00Z",
        "features": {"users_30d": 3},
        "views": device.json()["views"],
    }
    assert device.headers["etag"]
    assert device.json()["views"]["device_features"]["known_at"] == "2024-03-01T01:12:03.456789Z"
    assert pair.json()["entity"] == {"user_id": "7590-VHVEG", "account_id": 2**62}
    assert pair.json()["features"]["share"] == 1.0
    assert pair.json()["features"]["monthly_fee"] == 29.85
    assert (nobody.status_code, nobody.json()["found"]) == (200, False)


def test_keys_are_not_run_together(entities: Database, ask: Ask) -> None:
    """(1, 23) and (12, 3) are two: Feast's own row id would hold them for one."""
    rows = [
        {"user_id": "1", "account_id": 23},
        {"user_id": "12", "account_id": 3},
        {"user_id": "1", "account_id": 3},
        {"account_id": 23, "user_id": "1"},
    ]
    [answer] = ask(
        ("POST", "/entities/features", {"json": {"service": "pairs", "entities": rows}}),
        database=entities,
    )
    shares = [each["features"]["share"] for each in answer.json()["results"]]
    assert shares == [0.25, 0.5, None, 0.25]


def test_a_service_that_mixes_entities(entities: Database, ask: Ask) -> None:
    row = {"user_id": "7590-VHVEG", "account_id": 2**62, "device_id": "d 1/2"}
    [answer] = ask(
        ("POST", "/entities/features", {"json": {"service": "mixed", "entities": [row]}}),
        database=entities,
    )
    [result] = answer.json()["results"]
    assert result["entity"] == row
    wanted = {"share": 1.0, "users_30d": 3, "watch_hours_30d": 12.5, "skips_7d": 0, "score": 7}
    assert result["features"] == wanted


def test_every_type_as_the_store_holds_it(entities: Database, ask: Ask) -> None:
    full, empty = ask(
        ("GET", f"/entities/token/features?token={TOKEN}"),
        ("GET", f"/entities/token/features?token={UUID(int=1)}"),
        database=entities,
    )
    assert full.json()["features"] == {
        "amount": "1234567890123456789012345678901234.5600",
        "day": "2024-02-29",
        "seen_at": "2024-02-29T23:59:59Z",
        "id": "00000000-0000-0000-0000-00000000000a",
        "notes": {"a": [1.1, 12345678901234567890123], "b": None},
        "words": ["a", "b c"],
        "vector": [0.1, None],
    }
    assert '"notes":{"a": [1.10, 12345678901234567890123], "b": null}' in full.text
    assert full.json()["views"]["typed_features"]["status"] == "found"
    assert set(empty.json()["features"].values()) == {None}
    assert empty.json()["views"]["typed_features"]["status"] == "null"


@pytest.mark.parametrize(
    ("url", "status", "kind", "told"),
    [
        ("/entities/planet/features?x=1", 404, "unknown-entity", "no entity planet"),
        ("/entities/device/features", 422, "bad-keys", "device_id: is missing"),
        ("/entities/device/features?device_id=", 422, "bad-keys", "device_id: expected"),
        ("/entities/device/features?device_id=a&x=1", 422, "bad-keys", "x: is no key"),
        ("/entities/device/features?device_id=a&device_id=b", 422, "bad-parameter", "twice"),
        ("/entities/pair/features?user_id=a&account_id=1.5", 422, "bad-keys", "whole number"),
        ("/entities/pair/features?user_id=a&account_id=9223372036854775808", 422, "bad-keys", "64"),
        ("/entities/token/features?token=x", 422, "bad-keys", "a UUID"),
        ("/entities/device/features?device_id=a&service=pairs", 422, "other-entity", "keyed by"),
        ("/entities/device/features?device_id=a&service=no", 404, "unknown-service", "no feature"),
        ("/entities/device/features?device_id=a&on_missing=error", 404, "unknown-entity", "1 of"),
        ("/features/7590-VHVEG?service=devices", 422, "other-entity", "/entities/"),
        ("/features/7590-VHVEG/history?service=devices", 422, "other-entity", "/entities/"),
    ],
)
def test_what_it_does_not_take(
    entities: Database, ask: Ask, url: str, status: int, kind: str, told: str
) -> None:
    [answer] = ask(("GET", url), database=entities)
    assert (answer.status_code, answer.json()["type"]) == (status, f"/docs#problem-{kind}")
    assert told in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"entities": [], "service": "pairs"}, 422, ""),
        ({"entities": [{"user_id": "a"}], "service": "pairs"}, 422, "account_id: is missing"),
        (
            {"entities": [{"user_id": "a", "account_id": "1"}], "service": "pairs"},
            422,
            "account_id: expected a whole number",
        ),
        (
            {"entities": [{"user_id": "a", "account_id": True}], "service": "pairs"},
            422,
            "",
        ),
        ({"entities": [{"device_id": "a"}] * 1001, "service": "devices"}, 422, ""),
    ],
)
def test_bodies_it_does_not_take(
    entities: Database, ask: Ask, body: Any, status: int, told: str
) -> None:
    [answer] = ask(("POST", "/entities/features", {"json": body}), database=entities)
    assert answer.status_code == status
    assert told in json.dumps(answer.json())


def test_the_catalogue_says_who_is_who(entities: Database, ask: Ask) -> None:
    [answer] = ask(("GET", "/catalogue"), database=entities)
    told = answer.json()
    assert told["entities"]["pair"] == {"user_id": "text", "account_id": "bigint"}
    keys = {service["name"]: service["keys"] for service in told["services"]}
    assert keys["devices"] == {"device_id": "text"}
    assert keys["mixed"] == {"user_id": "text", "account_id": "bigint", "device_id": "text"}
    assert told["refused"] == {}


def test_feasts_form_of_several_keys(entities: Database, ask: Ask) -> None:
    body = {
        "features": ["pair_features:share", "device_features:users_30d"],
        "entities": {
            "user_id": ["12", "1"],
            "account_id": [3, 3],
            "device_id": ["d 1/2", "d 1/2"],
        },
        "full_feature_names": True,
    }
    [answer] = ask(("POST", "/get-online-features", {"json": body}), database=entities)
    told = answer.json()
    columns = dict(zip(told["metadata"]["feature_names"], told["results"], strict=True))
    assert columns["pair_features__share"] == {
        "values": [0.5, None],
        "statuses": ["PRESENT", "NOT_FOUND"],
        "event_timestamps": ["2024-02-29T00:00:00Z", "1970-01-01T00:00:00Z"],
    }
    assert columns["device_features__users_30d"]["values"] == [3, 3]
    assert columns["account_id"]["values"] == [3, 3]
