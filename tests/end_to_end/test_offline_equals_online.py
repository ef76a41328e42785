"""A model is trained on offline values and asked with online ones: any difference misleads it."""

from __future__ import annotations

from datetime import date, datetime, time, timezone
from typing import Any

import pandas as pd
from feast import FeatureStore

from data.database import Database
from orchestration import steps


def test_every_value_of_every_user_of_the_sample_is_the_same(sample: Database) -> None:
    store = FeatureStore(repo_path=str(steps.FEATURE_REPO))
    service = store.get_feature_service("all_features")
    with sample.connect() as connection:
        users = [row[0] for row in connection.execute("select user_id from online.user_features")]
    assert len(users) > 100

    now = datetime.now(timezone.utc)
    frame = pd.DataFrame({"user_id": users, "event_timestamp": [now] * len(users)})
    table = store.get_historical_features(frame, service).to_arrow()
    offline = {row["user_id"]: row for row in table.to_pylist()}

    online = store.get_online_features(service, [{"user_id": user} for user in users]).to_dict()
    names = [name for name in online if name != "user_id"]
    of_users = [view for view in store.list_feature_views() if view.join_keys == ["user_id"]]
    assert {f.name for view in of_users for f in view.features} == set(names)
    seen: dict[str, set[Any]] = {name: set() for name in names}
    for number, user in enumerate(online["user_id"]):
        for name in names:
            value = online[name][number]
            if type(offline[user][name]) is date:  # Feast's answer has its midnight
                assert value.timetz() == time(tzinfo=timezone.utc), (user, name)
                value = value.date()
            assert value == offline[user][name], (user, name)
            assert type(value) is type(offline[user][name]), (user, name)
            seen[name].add(repr(value))
    # Equal because both are null would show nothing.
    assert not [name for name, values in seen.items() if values <= {"None"}]
