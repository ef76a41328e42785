"""Entities other than the user, with one join key or several, from the manifest to the answer.

If this breaks, a device gets a user's values, or two entities share a row.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pandas as pd
import psycopg
import pytest
from feast import FeatureStore

from streamflow_feast.dbt.feast_objects import apply_definitions, feast_objects
from streamflow_feast.dbt.manifest import ManifestError, as_published, parse_manifest
from streamflow_feast.materialize.audit import AuditError, audit
from streamflow_feast.online.answer import JoinKeyError
from tests.feast.conftest import REPO
from tests.feast.offline import FEB, JAN, OTHERS, VIEWS, Offline, manifest

REGIONS = [uuid.UUID(int=n) for n in (1, 2)]
# Joined without a separator, the first two would be one: 1 and 23, 12 and 3.
PAIRS = [("1", "23"), ("12", "3"), ("u1", "d1")]
SHARES = ["user_device_features:watch_share_30d"]


@pytest.fixture
def offline(database, target) -> Offline:
    offline = Offline(database, target)
    offline.define({**VIEWS, **OTHERS})
    return offline


@pytest.fixture
def filled(offline: Offline, now) -> FeatureStore:
    store = FeatureStore(repo_path=str(REPO))
    apply_definitions(store)
    publish(offline, 0.0)
    store.materialize_incremental(now)
    return store


def publish(offline: Offline, shift: float, as_of=JAN, pairs=PAIRS) -> None:
    offline.publish(
        {
            "usage_features": [
                (u, as_of, {"watch_hours_30d": shift + n, "skips_7d": n})
                for n, u in enumerate(["1", "12", "u1"])
            ],
            "device_features": [
                (d, as_of, {"users_30d": n, "device_watch_hours_30d": shift + n / 10})
                for n, d in enumerate(["23", "3", "d1"])
            ],
            "user_device_features": [
                (pair, as_of, {"watch_share_30d": shift + n / 100, "last_seen_at": JAN})
                for n, pair in enumerate(pairs)
            ],
            "account_features": [
                ((2**53 + 1, REGIONS[0]), as_of, {"seats": 1 + int(shift)}),
                ((2**53 + 1, REGIONS[1]), as_of, {"seats": 2 + int(shift)}),
            ],
        }
    )


def ask(store: FeatureStore, features: list[str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    return store.get_online_features(features, rows).to_dict()


def test_a_composite_view_has_an_entity_of_feast_for_each_key() -> None:
    objects = feast_objects(parse_manifest(manifest({**VIEWS, **OTHERS})))
    entities = {
        name: thing.join_key for name, thing in objects.items() if hasattr(thing, "join_key")
    }
    assert entities == {
        "device": "device_id",
        "user": "user_id",
        "account_id": "account_id",
        "region_id": "region_id",
    }
    assert objects["user_device_features"].entities == ["user", "device"]
    assert objects["account_features"].entities == ["account_id", "region_id"]
    assert objects["device"].description == "What a device is."
    assert objects["user_device_features"].tags["dbt_entity"] == "user_device"


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"name": "device", "join_keys": {"device_id": "date"}}, "device_id has the type 'date'"),
        ({"name": "device", "join_keys": {"as_of": "text"}}, "as_of is a reserved name"),
        ({"name": "device", "join_keys": {}}, "it has a name and join_keys"),
        ("device", "meta.entity is 'device'; it has"),
        ({"name": "user", "join_keys": {"device_id": "text"}}, "has the name or the join keys of"),
        ({"name": "owner", "join_keys": {"user_id": "text"}}, "has the name or the join keys of"),
        (
            {"name": "device", "join_keys": {"device_id": "text", "user_id": "bigint"}},
            "the join key user_id is (bigint|text), and (bigint|text) in the entity",
        ),
    ],
)
def test_an_entity_that_cannot_be_is_refused_with_its_model(declared: Any, says: str) -> None:
    content = manifest({**VIEWS, "device_features": OTHERS["device_features"]})
    content["nodes"]["model.streamflow.spine_device"]["config"]["meta"]["entity"] = declared
    with pytest.raises(ManifestError, match=says) as refused:
        parse_manifest(content)
    assert "model spine_" in str(refused.value)


def test_a_manifest_of_an_earlier_release_has_users() -> None:
    content = manifest()
    content["nodes"] = {k: v for k, v in content["nodes"].items() if "spine" not in k}
    (entity,) = parse_manifest(content).entities
    assert (entity.name, dict(entity.keys)) == ("user", {"user_id": "text"})


def test_a_table_keeps_its_keys_until_others_are_published() -> None:
    before = parse_manifest(manifest({"device_features": OTHERS["device_features"]}))
    content = manifest({**VIEWS, "user_device_features": {"users_30d": "bigint"}})
    content["nodes"] = {
        key.replace("user_device_features", "device_features"): node
        for key, node in content["nodes"].items()
    }
    node = content["nodes"]["model.streamflow.device_features"]
    node |= {"name": "device_features", "unique_id": "model.streamflow.device_features"}
    test = content["nodes"]["test.streamflow.grain_device_features"]
    test["attached_node"] = "model.streamflow.device_features"
    content["exposures"] = {}
    merged, notes = as_published(parse_manifest(content), before)
    assert "device_features is defined by user_id, device_id" in notes
    (table,) = merged.tables
    assert dict(table.entity.keys) == {"device_id": "text"}
    assert {entity.name for entity in merged.entities} >= {"user", "device", "user_device"}


def test_two_objects_of_one_name_are_refused() -> None:
    content = manifest({**VIEWS, "device_features": OTHERS["device_features"]})
    content["exposures"]["exposure.streamflow.small"]["name"] = "device"
    with pytest.raises(ManifestError, match="more than one Feast object named device"):
        feast_objects(parse_manifest(content))


def test_online_equals_offline_for_every_entity(filled, offline, now) -> None:
    for name in offline.views:
        assert offline.online(name) == offline.expected(name)
    publish(offline, 0.5)
    publish(offline, 1.5, FEB, PAIRS[:2])
    filled.materialize_incremental(now)
    for name in offline.views:
        assert offline.online(name) == offline.expected(name)
    assert set(offline.online("user_device_features")) == set(PAIRS[:2])
    compared = {result.view: result.compared for result in audit()}
    assert compared["user_device_features"] == 2
    assert compared["account_features"] == 2


def test_a_retracted_pair_leaves_alone(filled, offline, now) -> None:
    offline.publish({"user_device_features": [(PAIRS[0], JAN, None)]})
    filled.materialize_incremental(now)
    assert set(offline.online("user_device_features")) == set(PAIRS[1:])
    assert audit(views=["user_device_features"])[0].passed


def test_the_audit_names_the_keys_of_what_differs(filled, offline) -> None:
    with offline.connect() as connection:
        connection.execute(
            "update online.user_device_features set watch_share_30d = 9 where device_id = '23'"
        )
    with pytest.raises(AuditError, match=r"user_device_features 1, 23: watch_share_30d is 9"):
        audit()


def test_views_of_several_entities_are_one_request(filled) -> None:
    features = [*SHARES, "usage_features:skips_7d", "device_features:users_30d"]
    rows = [
        {"user_id": "12", "device_id": "3"},
        {"user_id": "1", "device_id": "3"},  # a user and a device that are no pair
        {"user_id": "1", "device_id": "23"},
        {"user_id": "12", "device_id": "3"},
    ]
    answer = ask(filled, features, rows)
    assert answer["watch_share_30d"] == [0.01, None, 0.0, 0.01]
    assert answer["skips_7d"] == [1, 0, 0, 1]
    assert answer["users_30d"] == [1, 1, 0, 1]
    assert asyncio.run(filled.get_online_features_async(features, rows)).to_dict() == answer


def test_keys_that_are_no_text(filled) -> None:
    rows = [
        {"account_id": 2**53 + 1, "region_id": str(REGIONS[1])},
        {"account_id": 2**53, "region_id": str(REGIONS[1])},
        {"account_id": 2**53 + 1, "region_id": str(REGIONS[0]).upper()},
        {"account_id": 2**53 + 1, "region_id": REGIONS[0]},
    ]
    assert ask(filled, ["account_features:seats"], rows)["seats"] == [2, None, 1, 1]


def test_a_key_that_is_missing_or_cannot_be_is_told(filled) -> None:
    with pytest.raises(
        JoinKeyError, match=r"device_id is missing .*user_id, device_id.*has user_id"
    ):
        ask(filled, [*SHARES, "usage_features:skips_7d"], [{"user_id": "1"}])
    with pytest.raises(JoinKeyError, match="region_id 'x' is no uuid"):
        ask(filled, ["account_features:seats"], [{"account_id": 1, "region_id": "x"}])


def test_a_view_that_is_joined_by_another_column(filled) -> None:
    """The same view twice: of the user, and of who referred them."""
    from feast import FeatureService

    usage = filled.get_feature_view("usage_features")
    service = FeatureService(
        name="referred",
        features=[
            usage.with_name("own")[["skips_7d"]],  # Feast cannot sort an alias beside none
            usage.with_name("referrer").with_join_key_map({"user_id": "referrer_id"})[["skips_7d"]],
        ],
    )
    filled.apply(service)
    answer = filled.get_online_features(
        service,
        [{"user_id": "u1", "referrer_id": "12"}, {"user_id": "1", "referrer_id": "?"}],
        full_feature_names=True,
    ).to_dict()
    assert answer["own__skips_7d"] == [2, 0]
    assert answer["referrer__skips_7d"] == [1, None]


def test_rows_of_a_composite_entity_are_pushed(filled, offline, now) -> None:
    frame = pd.DataFrame(
        {
            "user_id": ["1", "12"],
            "device_id": ["23", "23"],
            "as_of": [FEB] * 2,
            "watch_share_30d": [0.25, 0.75],
            "last_seen_at": [FEB, None],
        }
    )
    filled.write_to_online_store("user_device_features", frame)
    online = offline.online("user_device_features")
    assert online["1", "23"][2:] == (0.25, FEB)
    assert online["12", "23"][2:] == (0.75, None)
    assert online["12", "3"] == offline.expected("user_device_features")["12", "3"]


def test_a_view_with_other_keys_gets_another_table(filled, offline, now) -> None:
    with offline.connect() as connection:
        connection.execute("drop table online.user_device_features")
        connection.execute(
            "create table online.user_device_features (user_id text primary key, as_of timestamptz,"
            " known_at timestamptz, published_at timestamptz, pushed_at timestamptz,"
            " watch_share_30d double precision, last_seen_at timestamptz)"
        )
    apply_definitions(filled)
    filled.materialize_incremental(now)
    assert offline.online("user_device_features") == offline.expected("user_device_features")


def test_training_frames_hold_the_keys_of_every_view(filled) -> None:
    frame = pd.DataFrame(
        {
            "user_id": ["1", "12", "12", "u1"],
            "device_id": ["23", "3", "23", "d1"],
            "account_id": [2**53 + 1] * 4,
            "region_id": [REGIONS[0], str(REGIONS[1]), str(REGIONS[1]).upper(), str(REGIONS[0])],
            "event_timestamp": [FEB, FEB, FEB, JAN],
        }
    )
    frame["region_id"] = frame["region_id"].astype(str)
    features = [
        *SHARES,
        "usage_features:skips_7d",
        "device_features:users_30d",
        "account_features:seats",
    ]
    table = filled.get_historical_features(frame, features).to_arrow()
    assert table.column("watch_share_30d").to_pylist() == [0.0, 0.01, None, 0.02]
    assert table.column("skips_7d").to_pylist() == [0, 1, 1, 2]
    assert table.column("users_30d").to_pylist() == [0, 1, 0, 2]
    assert table.column("seats").to_pylist() == [1, 2, 2, 1]


def test_the_past_of_an_entity_is_found_by_its_keys(filled, offline) -> None:
    query = "select as_of, features ->> 'watch_share_30d' from online.history(%s, %s, 5)"
    publish(offline, 0.5, FEB)

    def past(view: str, **keys: Any) -> list[Any]:
        with offline.connect() as connection:
            connection.execute(
                f"create or replace view published.{view}_latest as"
                f" select * from published.{view} where not is_retracted"
            )
            return connection.execute(query, [view, json.dumps(keys)]).fetchall()

    asked = {"user_id": "12", "device_id": "3"}
    assert past("user_device_features", **asked) == [(FEB, "0.51"), (JAN, "0.01")]
    assert past("user_device_features", user_id="1", device_id="3") == []
    account = {"account_id": 2**53 + 1, "region_id": str(REGIONS[0])}
    assert [as_of for as_of, _ in past("account_features", **account)] == [FEB, JAN]
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"found by .*device_id,user_id"):
        past("user_device_features", user_id="12")
