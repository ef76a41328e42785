"""`feast apply` and `feast materialize-incremental` as a person types them, and the real sample."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from feast import FeatureStore
from psycopg import sql

from tests.feast.conftest import REPO
from tests.feast.offline import JAN, Offline

FEAST = Path(sys.executable).parent / "feast"
USERS = [f"user-{number:03d}" for number in range(5)]


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(FEAST), *arguments], cwd=REPO, env=os.environ.copy(), capture_output=True, text=True
    )


def test_apply_and_materialize_from_the_feature_repo(offline: Offline):
    offline.publish(offline.month(JAN, USERS))
    applied = run("apply")
    assert applied.returncode == 0, applied.stderr
    assert "online.usage_features: created" in applied.stdout
    done = run("materialize-incremental", "2024-12-31T00:00:00")
    assert done.returncode == 0, done.stderr
    assert "usage_features           as of 2024-01-31: 5 considered, 5 changed" in done.stdout
    for name in offline.views:
        assert offline.online(name) == offline.expected(name)


def test_apply_without_a_manifest_says_what_to_do(database, target):
    failed = run("apply")
    assert failed.returncode != 0
    assert f"dbt's manifest is missing: {target}/manifest.json" in failed.stderr
    assert "cd dbt_project && dbt build" in failed.stderr


def test_online_equals_offline_for_every_user_and_value_of_the_sample(sample):
    """A model would be served other values than it was trained on."""
    from streamflow_feast.materialize.audit import audit

    store = FeatureStore(repo_path=str(REPO))
    service = store.get_feature_service("all_features")
    with sample.connect() as connection:
        every = store.list_feature_views()
        views = [view.name for view in every if view.join_keys == ["user_id"]]
        as_of, users = connection.execute(
            "select as_of, array_agg(user_id order by user_id) from published.user_features_latest"
            " where as_of = (select max(as_of) from published.user_features_latest) group by as_of"
        ).fetchone()
        offline = {
            name: {
                row.pop("user_id"): row
                for (row,) in connection.execute(
                    sql.SQL(
                        "select to_jsonb(t) - 'is_retracted' from {} as t where as_of = %s"
                    ).format(sql.Identifier("published", f"{name}_latest")),
                    [as_of],
                )
            }
            for name in views
        }
    assert len(users) > 200
    assert len(views) == 5
    rows = [{"user_id": user} for user in users]
    online = store.get_online_features(service, rows, full_feature_names=True).to_dict()
    compared = 0
    for view in views:
        for feature in store.get_feature_view(view).features:
            column = [_as_json(value) for value in online[f"{view}__{feature.name}"]]
            wanted = [offline[view][user][feature.name] for user in users]
            assert column == wanted, feature.name
            compared += len(column)
    assert compared == len(users) * sum(len(store.get_feature_view(v).features) for v in views)
    compared_of = {result.view: result.compared for result in audit()}
    assert {name: compared_of[name] for name in views} == dict.fromkeys(views, len(users))
    assert compared_of.keys() == {view.name for view in every}


def _as_json(value):
    """As to_jsonb has it; Feast gives a date as its midnight."""
    if isinstance(value, Decimal):
        return float(value)
    return f"{value:%Y-%m-%d}" if isinstance(value, datetime) else value


def test_the_sample_as_a_training_set_equals_what_is_online(sample):
    import pandas as pd

    store = FeatureStore(repo_path=str(REPO))
    service = store.get_feature_service("churn_v1")
    with sample.connect() as connection:
        users = [u for (u,) in connection.execute("select user_id from online.usage_features")]
        (as_of,) = connection.execute("select max(as_of) from online.usage_features").fetchone()
    frame = pd.DataFrame({"user_id": users, "event_timestamp": as_of})
    offline = store.get_historical_features(frame, service).to_arrow().to_pydict()
    online = store.get_online_features(service, [{"user_id": user} for user in users]).to_dict()
    order = {user: place for place, user in enumerate(offline["user_id"])}
    names = [name for name in online if name != "user_id"]
    assert len(names) == 16
    for name in names:
        assert online[name] == [offline[name][order[user]] for user in users], name
