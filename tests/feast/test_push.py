"""What is pushed: taken whole, or refused with the view, the feature, the user and the value."""

from __future__ import annotations

import asyncio
import json
import re
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore, FeatureView, PushSource
from feast.data_source import PushMode

from streamflow_feast.dbt.feast_objects import apply_definitions
from streamflow_feast.materialize.audit import AuditError, audit
from streamflow_feast.provider import PushError
from tests.feast.offline import FEB, JAN, Offline, day, manifest

USERS = ["u1", "u2", "u3"]


@pytest.fixture
def filled(offline: Offline, store: FeatureStore, now) -> FeatureStore:
    offline.publish(offline.month(JAN, USERS))
    store.materialize_incremental(now)
    return store


def rows(now, **columns: list[Any]) -> pd.DataFrame:
    frame = {"user_id": USERS, "as_of": [FEB] * 3, "known_at": [now] * 3}
    return pd.DataFrame({**frame, "watch_hours_30d": [1.5] * 3, "skips_7d": [4] * 3, **columns})


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"skips_7d": ["1", "2", "abc"]}, "skips_7d of user_id 'u3' (row 2) is 'abc', .* bigint"),
        ({"skips_7d": [1, 1.7, 2]}, "skips_7d of user_id 'u2' (row 1) is 1.7, .* bigint"),
        ({"skips_7d": [1, 2**63, 2]}, "skips_7d of user_id 'u2' (row 1) is 9223372036854775808"),
        ({"skips_7d": [True, 1, 2]}, "skips_7d of user_id 'u1' (row 0) is True"),
        ({"watch_hours_30d": [1.0, "much", 2]}, "watch_hours_30d of user_id 'u2' .* is 'much'"),
        ({"user_id": ["u1", 7, "u3"]}, "user_id of user_id 7 (row 1) is 7, .* no id of type text"),
        ({"user_id": ["u1", "a\0", "u3"]}, "user_id of user_id 'a.x00' (row 1)"),
        ({"skips_7d": [np.array([1]), 2, 3]}, "skips_7d of user_id 'u1' (row 0)"),
    ],
)
def test_a_value_that_does_not_fit_is_named_and_nothing_is_written(
    filled: FeatureStore, offline: Offline, now, columns: dict[str, list[Any]], says: str
) -> None:
    before = offline.online("usage_features")
    pattern = says.replace("(", r"\(").replace(")", r"\)")
    for push in (
        filled.write_to_online_store,
        lambda *given: asyncio.run(filled.write_to_online_store_async(*given)),
    ):
        with pytest.raises(PushError, match=f"push to usage_features: {pattern}") as failed:
            push("usage_features", rows(now, **columns))
        assert "Nothing of the 3 rows was written" in str(failed.value)
    assert offline.online("usage_features") == before


def test_a_text_is_no_truth(filled: FeatureStore, now) -> None:
    """bool("False") is true: a push of texts from a CSV turned everybody into seniors."""
    frame = rows(now, user_gender=["f"] * 3, is_senior=["True", "False", None])
    with pytest.raises(PushError, match=r"is_senior of user_id 'u1' .* boolean"):
        filled.write_to_online_store("user_features", frame)


def test_what_fits_is_written_exactly(filled: FeatureStore, offline: Offline, now) -> None:
    big = 2**53 + 1
    frame = rows(
        now,
        skips_7d=pd.array([big, None, 3], dtype="Int64"),
        watch_hours_30d=[1, np.nan, Decimal("2.5")],
    )
    filled.write_to_online_store("usage_features", frame)
    online = {user: row[2:] for user, row in offline.online("usage_features").items()}
    assert online == {"u1": (1.0, big), "u2": (None, None), "u3": (2.5, 3)}
    filled.write_to_online_store("usage_features", rows(now, skips_7d=[5.0, np.nan, 6.0]))
    assert [row[3] for row in offline.online("usage_features").values()] == [5, None, 6]


def test_the_offline_side_is_refused_with_a_reason(
    filled: FeatureStore, offline: Offline, now
) -> None:
    view = filled.get_feature_view("usage_features")
    source = PushSource(name="usage_pushes", batch_source=view.batch_source)
    user = filled.get_entity("user")
    pushable = FeatureView(
        name=view.name, entities=[user], schema=view.schema, source=source, ttl=view.ttl
    )
    filled.apply([user, source, pushable])
    wanted = "Nothing was pushed to the offline side of usage_features: .*PushMode.ONLINE.*dbt"
    whole = rows(now, is_retracted=[False] * 3)
    for push in (
        lambda: filled.push("usage_pushes", rows(now), to=PushMode.ONLINE_AND_OFFLINE),
        lambda: filled.push("usage_pushes", whole, to=PushMode.OFFLINE),
        lambda: filled.write_to_offline_store("usage_features", rows(now)),
        lambda: filled.write_to_offline_store("usage_features", whole),
    ):
        with pytest.raises(PushError, match=re.compile(wanted)):
            push()
    with offline.connect() as connection:
        count = connection.execute("select count(*) from features.usage_features").fetchone()
    assert count == (3,)


# --- between drops -----------------------------------------------------------------------------


@pytest.fixture
def pushable(offline: Offline, store: FeatureStore, now) -> FeatureStore:
    """As `filled`, with push: true in the model's meta.feast."""
    content = manifest()
    content["nodes"]["model.streamflow.usage_features"]["config"]["meta"]["feast"]["push"] = True
    (offline.target / "manifest.json").write_text(json.dumps(content))
    apply_definitions(store)
    offline.publish(offline.month(JAN, USERS))
    store.materialize_incremental(now)
    return store


def pushed_users(offline: Offline) -> set[str]:
    with offline.connect() as connection:
        query = "select user_id from online.usage_features where pushed_at is not null"
        return {user for (user,) in connection.execute(query)}


def later(offline: Offline) -> None:
    """Have the next publications come after what was pushed meanwhile."""
    offline.published = 40_000  # hours


def test_pushed_rows_are_answered_marked_and_counted_apart(
    pushable: FeatureStore, offline: Offline, now
) -> None:
    frame = rows(now).drop(columns="known_at").head(2)
    pushable.push("usage_features_push", frame)
    answer = pushable.get_online_features(
        ["usage_features:skips_7d"], [{"user_id": user} for user in USERS]
    ).to_dict()
    assert answer["skips_7d"][:2] == [4, 4]
    assert pushed_users(offline) == {"u1", "u2"}
    assert offline.online("usage_features")["u1"][:2] == (FEB, None)
    (result,) = audit(views=["usage_features"])
    assert (result.passed, result.pushed, result.compared) == (True, 2, 1)


def test_a_push_stays_until_a_publication_that_is_newer(
    pushable: FeatureStore, offline: Offline, now
) -> None:
    pushable.push("usage_features_push", rows(now).drop(columns="known_at").head(2))
    later(offline)
    offline.publish({"usage_features": [("u3", JAN, {"skips_7d": 1, "watch_hours_30d": 1.0})]})
    pushable.materialize_incremental(now)
    assert pushed_users(offline) == {"u1", "u2"}  # of February; January does not know better
    offline.publish(offline.month(FEB, USERS))
    pushable.materialize_incremental(now)
    assert pushed_users(offline) == set()
    assert offline.online("usage_features") == offline.expected("usage_features")


def test_the_next_publication_ends_a_push_of_its_as_of(
    pushable: FeatureStore, offline: Offline, now
) -> None:
    """Also where it has no new version of that user, and where it does not know the user."""
    frame = rows(now, as_of=[JAN] * 3, user_id=["u1", "u2", "stranger"]).drop(columns="known_at")
    pushable.push("usage_features_push", frame)
    pushable.materialize_incremental(now)  # nothing was published meanwhile
    assert pushed_users(offline) == {"u1", "u2", "stranger"}
    later(offline)
    offline.publish({"usage_features": [("u3", JAN, {"skips_7d": 1, "watch_hours_30d": 1.0})]})
    with pytest.raises(AuditError, match="usage_features u1: "):
        audit(views=["usage_features"])  # published, and not yet brought online
    pushable.materialize_incremental(now)
    assert pushed_users(offline) == set()
    assert offline.online("usage_features") == offline.expected("usage_features")
    assert audit(views=["usage_features"])[0].passed


def test_a_push_that_is_older_is_left_out(pushable: FeatureStore, offline: Offline, now) -> None:
    before = offline.online("usage_features")
    old = rows(now, as_of=[day("2023-12-31")] * 3, known_at=[day("2024-01-01")] * 3)
    pushable.push("usage_features_push", old)
    pushable.push("usage_features_push", rows(now, as_of=[JAN] * 3, known_at=[JAN] * 3))
    assert offline.online("usage_features") == before


def test_a_row_that_nobody_pushed_is_a_difference(pushable: FeatureStore, offline: Offline) -> None:
    with offline.connect() as connection:
        connection.execute(
            "update online.usage_features set as_of = %s where user_id = 'u1'", [FEB]
        )
    with pytest.raises(AuditError, match="usage_features u1: as_of is"):
        audit(views=["usage_features"])


def test_a_view_without_push_has_no_source_to_push_to(pushable: FeatureStore, now) -> None:
    with pytest.raises(Exception, match="payment_features_push"):
        pushable.push("payment_features_push", rows(now))


def test_a_push_without_a_column_is_told(pushable: FeatureStore, now) -> None:
    with pytest.raises(PushError, match="no column as_of, the instant that a row describes"):
        pushable.push("usage_features_push", rows(now).drop(columns="as_of"))
    with pytest.raises(PushError, match=r"no column user_id \(columns: "):
        pushable.push("usage_features_push", rows(now).drop(columns="user_id"))
