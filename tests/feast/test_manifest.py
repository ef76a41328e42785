"""What is read from dbt's manifest, and what its errors say."""

from __future__ import annotations

import copy
import json
from datetime import timedelta

import pytest
from feast import FeatureService, FeatureView
from feast.types import Bool, Float64, Int64, String

from streamflow_feast.dbt.feast_objects import feast_objects
from streamflow_feast.dbt.manifest import ManifestError, parse_manifest, read_manifest
from streamflow_feast.views import view_of
from tests.feast.offline import VIEWS, manifest

MODEL = "model.streamflow.usage_features"


@pytest.fixture
def content() -> dict:
    return copy.deepcopy(manifest(ttl_days={"usage_features": 1.5}))


def test_everything_comes_along(content):
    objects = feast_objects(parse_manifest(content))
    user = objects["user"]
    assert user.join_key == "user_id"
    assert user.description
    view = objects["usage_features"]
    assert isinstance(view, FeatureView)
    assert [(field.name, field.dtype) for field in view.features] == [
        ("watch_hours_30d", Float64),
        ("skips_7d", Int64),
    ]
    assert view.features[0].description == "What watch_hours_30d means."
    assert view.features[0].tags == {"unit": "units"}
    assert view.ttl == timedelta(days=1.5)
    assert view.owner == "feature-platform"
    assert view.description == "The usage_features of a user."
    assert view.tags == {
        "monthly": "true",
        "domain": "churn",
        "dbt_model": MODEL,
        "dbt_entity": "user",
    }
    assert view.batch_source.get_table_query_string() == "published.usage_features"
    assert view.batch_source.timestamp_field == "as_of"
    assert view.batch_source.created_timestamp_column == "known_at"
    assert {field.dtype for field in objects["user_features"].features} == {String, Bool}
    services = {
        name: [
            (projection.name, [field.name for field in projection.features])
            for projection in service.feature_view_projections
        ]
        for name, service in objects.items()
        if isinstance(service, FeatureService)
    }
    assert services == {
        "small": [("usage_features", ["watch_hours_30d"])],
        "all_features": [(view, list(columns)) for view, columns in VIEWS.items()],
    }
    assert objects["small"].owner == "team@streamflow.example"


def test_a_missing_manifest_names_the_path_and_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("DBT_TARGET_PATH", str(tmp_path))
    with pytest.raises(ManifestError, match=rf"{tmp_path}.*cd dbt_project && dbt build"):
        read_manifest()
    (tmp_path / "manifest.json").write_text('{"nodes": {')
    with pytest.raises(ManifestError, match=r"damaged.*cd dbt_project && dbt build"):
        read_manifest()


@pytest.mark.parametrize(
    ("data_type", "shown"),
    [
        ("numeric", "numeric"),
        ("numeric(80,2)", r"numeric\(80,2\)"),
        ("numeric(4,6)", r"numeric\(4,6\)"),
        ("timestamp", "timestamp"),
        ("integer[]", r"integer\[\]"),
        ("smallint", "smallint"),
        (None, "of no type"),
    ],
)
def test_a_type_without_an_exact_equivalent_names_model_column_and_remedy(
    content, data_type, shown
):
    content["nodes"][MODEL]["columns"]["skips_7d"]["data_type"] = data_type
    wanted = f"model usage_features .*column skips_7d is {shown}.*Cast it at the end of the model"
    with pytest.raises(ManifestError, match=wanted):
        parse_manifest(content)


def test_a_model_without_an_enforced_contract_is_named(content):
    content["nodes"][MODEL]["config"]["contract"] = {"enforced": False}
    with pytest.raises(ManifestError, match=r"model usage_features .*no enforced contract.*Add"):
        parse_manifest(content)


def test_a_model_without_a_grain_test_is_named(content):
    kwargs = content["nodes"]["test.streamflow.grain_usage_features"]["test_metadata"]["kwargs"]
    kwargs["columns"] = ["user_id"]
    with pytest.raises(ManifestError, match=r"model usage_features .*no grain test.*Add"):
        parse_manifest(content)


def test_a_missing_or_mistyped_key_column_is_named(content):
    columns = content["nodes"][MODEL]["columns"]
    columns["as_of"]["data_type"] = "date"
    with pytest.raises(ManifestError, match=r"usage_features .*column as_of is date, must be"):
        parse_manifest(content)
    del columns["as_of"]
    with pytest.raises(ManifestError, match="column as_of is missing, must be"):
        parse_manifest(content)


def test_an_unknown_entity_and_a_reserved_name_are_refused(content):
    content["nodes"][MODEL]["columns"]["published_at"] = {"name": "published_at"}
    with pytest.raises(ManifestError, match="column published_at has a name the online store uses"):
        parse_manifest(content)
    content["nodes"][MODEL]["config"]["meta"]["feast"]["entity"] = "device"
    with pytest.raises(ManifestError, match=r"entity is 'device'; there are the entities user\."):
        parse_manifest(content)


def test_a_service_of_an_unknown_feature_or_view_is_named(content):
    feast = content["exposures"]["exposure.streamflow.small"]["config"]["meta"]["feast"]
    feast["features"] = {"usage_features": ["hours"]}
    with pytest.raises(ManifestError, match=r"exposure small .*hours, which is not a column of"):
        parse_manifest(content)
    feast["features"] = {"user_features": ["is_senior"]}
    with pytest.raises(ManifestError, match="user_features, which is not a feature view it"):
        parse_manifest(content)


def test_the_adapter_decides_the_source(content):
    """Where dbt built on Spark, stock Feast's own kind of source says so; nothing else differs."""
    spark = {**content, "metadata": {"adapter_type": "spark"}}
    here, there = (feast_objects(parse_manifest(told)) for told in (content, spark))
    view, other = here["usage_features"], there["usage_features"]
    assert type(view.batch_source).__name__ == "PostgreSQLSource"
    assert type(other.batch_source).__name__ == "SparkSource"
    assert other.batch_source.table == "published.usage_features"
    assert view_of(other) == view_of(view)
    assert other.batch_source.created_timestamp_column == "known_at"


def test_no_feature_view_and_another_engine_are_errors(content):
    other = {**content, "metadata": {"adapter_type": "duckdb"}}
    with pytest.raises(ManifestError, match="adapter 'duckdb'"):
        feast_objects(parse_manifest(other))
    for node in content["nodes"].values():
        node["config"] = {}
    with pytest.raises(ManifestError, match=r"config\.meta\.feast"):
        parse_manifest(content)


def test_meta_at_the_top_as_in_older_dbt_is_read(content):
    node = content["nodes"][MODEL]
    node["meta"] = node["config"].pop("meta")
    names = [table.name for table in parse_manifest(json.loads(json.dumps(content))).tables]
    assert names == sorted(VIEWS)
