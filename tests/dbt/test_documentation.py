"""An analyst who opens dbt's docs finds every column, with its meaning, and the way to the API.

If one of these fails, a column appears in the lineage without an explanation, a constraint or a
unit that a modeller would have to guess.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from data.database import Database


@pytest.fixture
def manifest(sample: Database) -> dict[str, Any]:
    """dbt's manifest of the sample."""
    return json.loads((Path(os.environ["DBT_TARGET_PATH"]) / "manifest.json").read_text())


def models(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Nodes of the models."""
    return [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]


def test_every_model_and_column_is_described(manifest: dict[str, Any], sample: Database) -> None:
    with sample.connect() as connection:
        columns = connection.execute(
            "select table_schema, table_name, column_name from information_schema.columns"
            " where table_schema in ('staging', 'features')"
        ).fetchall()
    there: dict[tuple[str, str], set[str]] = {}
    for schema, table, column in columns:
        there.setdefault((schema, table), set()).add(column)
    for model in models(manifest):
        assert model["description"].strip(), model["name"]
        described = {
            name for name, column in model["columns"].items() if column["description"].strip()
        }
        assert described == there[model["schema"], model["alias"]], model["name"]


def test_every_table_of_the_sources_is_described(manifest: dict[str, Any]) -> None:
    assert len(manifest["sources"]) == 10
    assert all(source["description"].strip() for source in manifest["sources"].values())


def test_every_feature_table_has_a_contract_a_key_and_tests(manifest: dict[str, Any]) -> None:
    tested = {
        (test["attached_node"], test["test_metadata"]["name"])
        for test in manifest["nodes"].values()
        if test["resource_type"] == "test" and test.get("test_metadata")
    }
    tables = [model for model in models(manifest) if model["schema"] == "features"]
    assert len(tables) == 8
    entities = {
        node["config"]["meta"]["entity"]["name"]: [*node["config"]["meta"]["entity"]["join_keys"]]
        for node in models(manifest)
        if "entity" in node["config"]["meta"]
    }
    assert set(entities) == {"user", "device", "user_device"}
    for table in tables:
        assert table["config"]["contract"]["enforced"], table["name"]
        keys = [c["columns"] for c in table["constraints"] if c["type"] == "primary_key"]
        entity = table["config"]["meta"]["made_from"]["entity"]
        assert keys == [[*entities[entity], "as_of", "known_at"]], table["name"]
        assert (table["unique_id"], "grain") in tested
        if table["name"] != "churn_labels":
            assert (table["unique_id"], "covers_the_spine") in tested


def test_numbers_that_are_measured_say_their_unit(manifest: dict[str, Any]) -> None:
    for model in models(manifest):
        if model["schema"] == "features":
            for name, column in model["columns"].items():
                if column["data_type"].startswith(("bigint", "double precision", "numeric")):
                    assert column["config"]["meta"].get("unit"), f"{model['name']}.{name}"


def test_the_api_is_downstream_of_every_raw_table_it_serves(manifest: dict[str, Any]) -> None:
    exposure = next(e for e in manifest["exposures"].values() if e["name"] == "features_api")
    seen, waiting = set(), list(exposure["depends_on"]["nodes"])
    while waiting:
        node = waiting.pop()
        seen.add(node)
        waiting += manifest["parent_map"].get(node, [])
    raw = {source["name"] for uid, source in manifest["sources"].items() if uid in seen}
    assert raw >= {"users", "subscriptions", "usage", "payments", "support", "usage_agg_30d"}


def test_no_statistics_are_sent() -> None:
    project = Path(__file__).resolve().parents[2] / "dbt_project" / "dbt_project.yml"
    assert "send_anonymous_usage_stats: false" in project.read_text()
