"""What is pushed: taken whole, or refused with the view, the feature, the user and the value."""

from __future__ import annotations

import asyncio
import re
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore, FeatureView, PushSource
from feast.data_source import PushMode

from streamflow_feast.provider import PushError
from tests.feast.offline import FEB, JAN, Offline

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
