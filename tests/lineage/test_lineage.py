"""`make lineage`: the file it writes, and what it refuses."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openlineage.client.generated import column_lineage_dataset as spec

from data.database import Database
from orchestration.lineage.command import main
from orchestration.lineage.project import compiled_manifest, read
from orchestration.lineage.sql import LineageError
from streamflow_feast.dbt.manifest import manifest_path, parse_manifest

USAGE = "model.streamflow.usage_features"


Written: dict[str, dict[str, Any]] = {}  # by the first test that asks


@pytest.fixture
def written(sample: Database, target: Path) -> dict[str, Any]:
    """The file, as the command writes it."""
    if "file" not in Written:
        assert main([]) == 0
        Written["file"] = json.loads((target / "column_lineage.json").read_text())
    return Written["file"]


def test_every_facet_has_the_form_of_the_specification(written: dict[str, Any]) -> None:
    for dataset in written["datasets"] + written["features"]:
        facet = dataset["facets"]["columnLineage"]
        assert facet["_schemaURL"] == spec.ColumnLineageDatasetFacet._get_schema()
        inputs = [i for f in facet["fields"].values() for i in f["inputFields"]] + facet["dataset"]
        for field in inputs:
            made = spec.InputField(**field)
            for transformation in made.transformations or []:
                checked = spec.Transformation(**transformation)  # type: ignore[arg-type]
                assert checked.type in ("DIRECT", "INDIRECT")
                assert checked.description in ("value", "filter", "join key")
                assert (checked.type == "DIRECT") == (checked.description == "value")


def test_every_feature_can_be_walked_from_the_answer_to_a_raw_file(written: dict[str, Any]) -> None:
    fields = {
        (d["namespace"], d["name"], name): f["inputFields"]
        for d in written["datasets"]
        for name, f in d["facets"]["columnLineage"]["fields"].items()
    }
    of_rows = {
        (d["namespace"], d["name"]): d["facets"]["columnLineage"]["dataset"]
        for d in written["datasets"]
    }

    def files(place: tuple[str, str, str], seen: set[tuple[str, str, str]]) -> set[str]:
        if place in seen:
            return set()
        seen.add(place)
        if place[0] == "streamflow/drop":
            return {f"{place[1]}.{place[2]}"}
        inputs = fields.get(place, []) + of_rows.get(place[:2], [])
        found = [files((i["namespace"], i["name"], i["field"]), seen) for i in inputs]
        return set().union(*found)

    trend = files(("streamflow/api", "all_features", "watch_hours_trend_30d"), set())
    assert {"usage.watch_minutes", "usage.started_at", "usage.user_id", "users.user_id"} <= trend
    manifest = parse_manifest(json.loads(manifest_path().read_text()))
    for view in manifest.tables:
        for column in view.columns:
            assert files(("feast/feature_view", view.name, column.name), set()), column.name
    # On-demand features, and the label, which no service has.
    cost = files(("streamflow/training_set", "retention_offers", "fee_per_watch_hour"), set())
    assert {"subscriptions.monthly_fee", "usage.watch_minutes"} <= cost
    label = files(("streamflow/training_set", "churn_v1", "churn_label"), set())
    assert "labels.churn_label" in label
    offer = fields["feast/feature_view", "offer_discount", "offered_discount"]
    assert "offered_fee" in [i["field"] for i in offer if i["namespace"] == "feast/request"]


def test_no_input_points_at_a_column_that_there_is_not(written: dict[str, Any]) -> None:
    there = {
        (d["namespace"], d["name"]): set(d["facets"]["columnLineage"]["fields"])
        for d in written["datasets"]
    }
    loaders = {"as_of", "load_id", "loaded_at", "replaced_by", "superseded_by"}
    for dataset in written["datasets"]:
        facet = dataset["facets"]["columnLineage"]
        inputs = [i for f in facet["fields"].values() for i in f["inputFields"]] + facet["dataset"]
        for i in inputs:
            place = (i["namespace"], i["name"])
            if place[0] in ("streamflow/drop", "feast/request") or ".raw." in place[1]:
                assert i["field"] in loaders | there.get(place, {i["field"]})
            else:
                assert i["field"] in there[place], (dataset["name"], i)


def test_a_feature_is_shown_with_its_raw_columns_and_its_services(
    sample: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--feature", "failed_payments_90d"]) == 0
    shown = capsys.readouterr().out
    assert "payments.status" in shown
    assert "payments_agg_90d.failed_payments_90d         value" in shown
    assert "used in" in shown
    assert "churn_v1" in shown
    assert main(["--feature", "nothing"]) == 1
    said = capsys.readouterr().err
    assert "there is no feature nothing; there are: active_days_30d" in said


def test_without_compiled_sql_the_project_is_compiled_first(sample: Database, target: Path) -> None:
    before = read(compiled_manifest()).from_raw
    whole = json.loads((target / "manifest.json").read_text())
    for node in whole["nodes"].values():
        node.pop("compiled_code", None)
    (target / "manifest.json").write_text(json.dumps(whole))
    assert read(compiled_manifest()).from_raw == before


Change = Callable[[dict[str, Any]], Any]


def _replace(old: str, new: str) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        node = manifest["nodes"][USAGE]
        assert old in node["compiled_code"]
        node["compiled_code"] = node["compiled_code"].replace(old, new)

    return change


def _add_to_the_yaml(manifest: dict[str, Any]) -> None:
    columns = manifest["nodes"][USAGE]["columns"]
    columns["watch_hours_per_day"] = {**columns["skips_7d"], "name": "watch_hours_per_day"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            _add_to_the_yaml,
            r"model usage_features \(models/features/usage_features.sql\): column watch_hours_per",
        ),
        (
            _replace("sum(skips)", "sum(skipped)"),
            r"model usage_features \(.*\): column skipped is not found in usage",
        ),
        (
            _replace('"stg_usage" as usage', '"nothing" as usage'),
            r"model usage_features \(.*\) reads .*nothing.*, which is no model or source of dbt",
        ),
        (_replace("select * from versions", "select ((("), "usage_features.*cannot be parsed"),
    ],
)
def test_what_cannot_be_told_is_refused_with_model_and_column(
    sample: Database, change: Change, said: str
) -> None:
    manifest: Any = copy.deepcopy(compiled_manifest())
    change(manifest)
    with pytest.raises(LineageError, match=said):
        read(manifest)


def test_a_feature_that_no_raw_column_goes_into_is_refused(sample: Database) -> None:
    manifest: Any = copy.deepcopy(compiled_manifest())
    for node in manifest["nodes"].values():
        if node["name"] == "user_features":
            assert "users.has_family" in node["compiled_code"]
            node["compiled_code"] = node["compiled_code"].replace(
                "users.has_family", "true as has_family"
            )
    with pytest.raises(LineageError, match=r"model user_features .*goes into has_family"):
        read(manifest)


def test_a_seed_may_be_read_and_counts_as_no_raw_file(sample: Database) -> None:
    manifest: Any = copy.deepcopy(compiled_manifest())
    seed = {"unique_id": "seed.streamflow.plans", "name": "plans", "resource_type": "seed"}
    place = {"schema": "staging", "database": "streamflow", "alias": "plans", "columns": {}}
    manifest["nodes"]["seed.streamflow.plans"] = seed | place
    node = next(n for n in manifest["nodes"].values() if n["name"] == "user_features")
    old = node["compiled_code"]
    join = "left join staging.plans on plans.plan = users.user_gender"
    node["compiled_code"] = old.replace("where pairs.in_spine", f"{join} where pairs.in_spine")
    assert node["compiled_code"] != old
    rows = read(manifest).steps["model.streamflow.user_features"].rows
    assert ("seed.streamflow.plans", "plan") in {(use.relation, use.column) for use in rows}
    node["compiled_code"] = node["compiled_code"].replace("users.has_family", "plans.has_family")
    with pytest.raises(LineageError, match="goes into has_family"):
        read(manifest)
