"""On-demand features: the same code, the same values, in training, online and for the API.

If this breaks, a model is served another number than it was trained on.
"""

from __future__ import annotations

import math
import random
import shutil
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import FeatureStore

from streamflow_feast import on_demand
from streamflow_feast.dbt.feast_objects import apply_definitions, feast_objects
from streamflow_feast.dbt.manifest import ManifestError, parse_manifest
from streamflow_feast.on_demand import OnDemandError, of_service
from tests.feast.conftest import REPO
from tests.feast.offline import FEB, JAN, Offline, manifest

TYPES = {
    "amount": "numeric(12,2)",
    "signed_up": "date",
    "seen_at": "timestamp with time zone",
    "extra": "jsonb",
    "last": "text[]",
    "id": "uuid",
    "ratio": "real",
}
VIEWS = {
    "usage_features": {"watch_hours_30d": "double precision", "skips_7d": "bigint"},
    "subscription_features": {"monthly_fee": "double precision"},
    "typed_features": TYPES,
}
USERS = [f"u{number}" for number in range(8)]

# What a function sees of every type, as text: the same on each path, or the tests fail.
TYPED = """
from feast import Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Decimal, Int64, String, UnixTimestamp

from streamflow_feast.on_demand import features


@on_demand_feature_view(
    sources=[
        features("typed_features", *{names!r}),
        RequestSource(name="asked", schema=[Field(name="n", dtype=Int64)]),
    ],
    schema=[
        Field(name="seen", dtype=String),
        Field(name="doubled", dtype=Decimal),
        Field(name="day", dtype=UnixTimestamp),
        Field(name="tags", dtype=Array(String)),
    ],
    mode="python",
)
def typed(inputs):
    from decimal import Decimal

    rows = list(zip(*(inputs[name] for name in {names!r})))
    if any(n == 0 for n in inputs["n"]):
        raise ValueError("no n")
    return {{
        "seen": [f"{{row!r}}" for row in rows],
        "doubled": [None if v is None else v * 2 for v in inputs["amount"]],
        "day": inputs["signed_up"],
        "tags": [None if v is None else [*v, "x"] for v in inputs["last"]],
    }}
"""


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A feature repo with one more on-demand view, beside the dbt manifest of these tests."""
    folder = tmp_path / "project" / "feature_repo"
    folder.mkdir(parents=True)
    for name in ("feature_store.yaml", "definitions.py", "on_demand.py"):
        shutil.copy(REPO / name, folder / name)
    text = (folder / "on_demand.py").read_text()
    (folder / "on_demand.py").write_text(text + TYPED.format(names=tuple(TYPES)))
    return folder


@pytest.fixture
def offline(database, target) -> Offline:
    offline = Offline(database, target)
    offline.define(VIEWS)
    return offline


@pytest.fixture
def filled(offline: Offline, repo: Path, now) -> FeatureStore:
    with_services(offline)
    store = FeatureStore(repo_path=str(repo))
    apply_definitions(store)
    random.seed(1)
    offline.publish(
        {
            "usage_features": [
                (u, JAN, {"watch_hours_30d": None if n == 3 else random.random() * 50 * (n != 4)})
                for n, u in enumerate(USERS)
            ],
            "subscription_features": [
                (u, JAN, {"monthly_fee": None if n == 5 else 20 + random.random()})
                for n, u in enumerate(USERS[:-1])  # the last has no row
            ],
            "typed_features": [
                (
                    u,
                    JAN,
                    {
                        "amount": Decimal("12.30") + n,
                        "signed_up": date(2023, 1, 1 + n),
                        "seen_at": datetime(2024, 1, 30, 1, 2, 3, 456, tzinfo=timezone.utc),
                        "extra": '{"a": [1, null]}',
                        "last": ["é", ""] if n else [],
                        "id": "0b7e0a3c-7f2a-4c1e-9a54-4d0f8a1b2c3d",
                        "ratio": 0.1,
                    }
                    if n != 2
                    else {"amount": None},
                )
                for n, u in enumerate(USERS)
            ],
        }
    )
    store.materialize_incremental(now)
    return store


def with_services(offline: Offline, **services: list[str]) -> None:
    """Write the manifest with services that have on-demand views."""
    import json

    content = manifest(VIEWS)
    services = services or {"offers": ["watch_cost", "offer_discount"], "all_types": ["typed"]}
    for name, views in services.items():
        exposure = json.loads(json.dumps(content["exposures"]["exposure.streamflow.small"]))
        exposure |= {"name": name, "unique_id": f"exposure.streamflow.{name}"}
        exposure["config"]["meta"]["feast"]["on_demand"] = views
        content["exposures"][f"exposure.streamflow.{name}"] = exposure
    (offline.target / "manifest.json").write_text(json.dumps(content))


def three_ways(
    store: FeatureStore, service: str, request: dict[str, list[Any]]
) -> tuple[dict[str, list[Any]], list[dict[str, Any]], dict[str, list[Any]]]:
    """A service's features in training, computed for the API, and from Feast's online read."""
    found = store.get_feature_service(service)
    frame = pd.DataFrame({"user_id": USERS, "event_timestamp": [FEB] * len(USERS), **request})
    trained = store.get_historical_features(frame, found).to_arrow().to_pydict()
    rows = [
        {"user_id": user, **{name: values[n] for name, values in request.items()}}
        for n, user in enumerate(USERS)
    ]
    online = store.get_online_features(found, rows).to_dict()
    computed = of_service(store.registry.cached_registry_proto, store.project, service)
    assert computed is not None
    return trained, computed.compute(vectors(computed, store), rows), online


def vectors(computed: on_demand.OnDemandFeatures, store: FeatureStore) -> list[dict[str, Any]]:
    """What the API reads for the view's inputs: rows of the online tables."""
    from data.database import Database
    from streamflow_feast.kinds import register_json

    found: list[dict[str, Any]] = [{} for _ in USERS]
    with Database().connect() as connection:
        register_json(connection.adapters)
        for view, columns in computed.inputs.items():
            names = [name for name, _ in columns]
            rows = {
                user: values
                for user, *values in connection.execute(
                    f"select user_id, {', '.join(names)} from online.{view}", binary=True
                )
            }
            for vector, user in zip(found, USERS, strict=True):
                values = rows.get(user, [None] * len(names))
                vector |= {f"{view}:{n}": v for n, v in zip(names, values, strict=True)}
    return found


def test_the_three_ways_give_the_same_bits(filled: FeatureStore) -> None:
    request = {"offered_fee": [random.random() * 20 for _ in USERS]}
    trained, computed, online = three_ways(filled, "offers", request)
    for name in ("fee_per_watch_hour", "offered_discount"):
        assert trained[name] == online[name] == [row[name] for row in computed]
        assert sum(value is None for value in online[name]) > 1
        assert all(math.isfinite(value) for value in online[name] if value is not None)
    assert trained["watch_hours_30d"] == online["watch_hours_30d"]  # a plain one beside them


def test_a_function_sees_the_same_python_values_of_every_type(filled: FeatureStore) -> None:
    trained, computed, online = three_ways(filled, "all_types", {"n": [1] * len(USERS)})
    for name in ("seen", "doubled", "tags", "day"):
        assert trained[name] == online[name] == [row[name] for row in computed]
    assert "Decimal('12.30'), datetime.datetime(2023, 1, 1, 0, 0, tzinfo=" in online["seen"][0]
    assert "UUID('0b7e0a3c" in online["seen"][0]
    assert "{'a': [1, None]}" in online["seen"][0]
    assert online["doubled"][0] == Decimal("24.60")
    assert online["seen"][2] == str((None,) * len(TYPES))


def test_full_names_and_a_feature_alone(filled: FeatureStore) -> None:
    refs = ["watch_cost:fee_per_watch_hour", "usage_features:skips_7d"]
    frame = pd.DataFrame({"user_id": USERS, "event_timestamp": [FEB] * len(USERS)})
    rows = [{"user_id": user} for user in USERS]
    trained = filled.get_historical_features(frame, refs, full_feature_names=True).to_arrow()
    online = filled.get_online_features(refs, rows, full_feature_names=True).to_dict()
    name = "watch_cost__fee_per_watch_hour"
    assert trained.column(name).to_pylist() == online[name]
    assert set(online) == {"user_id", name, "usage_features__skips_7d"}


def test_applying_again_changes_nothing(filled: FeatureStore, capsys) -> None:
    apply_definitions(filled)
    assert "Nothing changed in the registry." in capsys.readouterr().out


def test_the_registry_runs_the_source(filled: FeatureStore) -> None:
    """And not a pickle, which another Python could not read."""
    views = filled.list_on_demand_feature_views()
    assert {view.name for view in views} == {"watch_cost", "offer_discount", "typed"}
    for view in views:
        function = view.feature_transformation.udf
        assert function.__globals__["__name__"] == "feast_udf_rehydrate"


def test_what_the_request_lacks_is_told(filled: FeatureStore) -> None:
    computed = of_service(filled.registry.cached_registry_proto, filled.project, "offers")
    assert computed is not None
    assert dict(computed.request) == {"offered_fee": "Float64"}
    with pytest.raises(OnDemandError, match="offered_fee is missing in the request"):
        computed.compute([{}], [{"n": 1}])
    query = "select 'u1' as user_id, timestamptz '2024-02-29' as event_timestamp"
    job = filled.get_historical_features(query, filled.get_feature_service("offers"))
    with pytest.raises(ValueError, match="no column offered_fee, which the on-demand view offer"):
        job.to_arrow()


def test_a_function_that_fails_is_named(filled: FeatureStore) -> None:
    computed = of_service(filled.registry.cached_registry_proto, filled.project, "all_types")
    assert computed is not None
    with pytest.raises(OnDemandError, match="on-demand view typed: ValueError: no n"):
        computed.compute([{}], [{"n": 0}])


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("[1.0, 2.0, 3.0]", "one value a row"),
        ("'ab'", "one value a row"),
        ("['x', 'y']", "no Float64"),
    ],
)
def test_an_answer_of_another_form_is_named(filled: FeatureStore, answer: str, says: str) -> None:
    (view,) = (v for v in filled.list_on_demand_feature_views() if v.name == "watch_cost")
    view.feature_transformation.udf = lambda inputs: {"fee_per_watch_hour": eval(answer)}
    with pytest.raises(OnDemandError, match=f"watch_cost: fee_per_watch_hour .*{says}"):
        on_demand.transform(view, {}, 2)


def test_what_is_not_published_is_left_out_and_said(offline: Offline, repo: Path, capsys) -> None:
    with_services(offline)
    content = manifest({"usage_features": VIEWS["usage_features"]})
    exposure = content["exposures"]["exposure.streamflow.small"]
    exposure["config"]["meta"]["feast"]["on_demand"] = ["watch_cost"]
    objects = feast_objects(parse_manifest(content), on_demand=repo / "on_demand.py")
    assert "watch_cost" not in objects
    assert [p.name for p in objects["small"].feature_view_projections] == ["usage_features"]
    told = capsys.readouterr().err
    assert "watch_cost is left out: subscription_features.monthly_fee is not published" in told


def test_an_unknown_one_and_another_mode_are_refused(repo: Path) -> None:
    content = manifest(VIEWS)
    exposure = content["exposures"]["exposure.streamflow.small"]
    exposure["config"]["meta"]["feast"]["on_demand"] = ["watch_price"]
    with pytest.raises(ManifestError, match=r"exposure small: .*watch_price, which is no"):
        feast_objects(parse_manifest(content), on_demand=repo / "on_demand.py")
    path = repo / "on_demand.py"
    path.write_text(
        path.read_text().replace('mode="python"', 'mode="pandas"').replace("-> dict", "")
    )
    with pytest.raises(ManifestError, match=r'on_demand\.py: watch_cost has to have mode="python"'):
        feast_objects(parse_manifest(manifest(VIEWS)), on_demand=path)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('inputs["monthly_fee"]', 'inputs["total_paid"]', "KeyError: 'total_paid'"),
        ("fee is not None and hours", "hours != 0", "TypeError: unsupported operand"),
    ],
)
def test_a_function_is_tried_before_it_is_registered(
    offline: Offline, repo: Path, old: str, new: str, says: str
) -> None:
    path = repo / "on_demand.py"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(OnDemandError, match=f"watch_cost: {says}.*a trial with None"):
        apply_definitions(FeatureStore(repo_path=str(repo)))
