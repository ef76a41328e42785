"""`feast plan` is empty, and `feast apply` says so, when nothing changed: pipelines go by that."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone

from feast import FeatureStore
from feast.repo_operations import get_repo_files

from streamflow_feast.dbt.feast_objects import apply_definitions, repo_contents
from streamflow_feast.dbt.manifest import read_manifest
from tests.feast.conftest import REPO
from tests.feast.offline import JAN, VIEWS, Offline
from tests.feast.test_commands import run

BOLD = re.compile(r"\x1b\[\d+m")


def plan() -> str:
    """What `feast plan` prints, made in this process."""
    store = FeatureStore(repo_path=str(REPO))
    registry, infra, _ = store.plan(repo_contents(store, read_manifest()))
    return registry.to_string() + infra.to_string()


def planned_changes() -> list[str]:
    return [line for line in plan().splitlines() if line and "No changes to" not in line]


def version(offline: Offline) -> int:
    with offline.connect() as connection:
        return connection.execute("select version from online.registry").fetchone()[0]


def test_an_apply_imports_the_definitions_alone():
    """Every other module of ours would be imported again, under another name."""
    assert [path.name for path in get_repo_files(REPO)] == ["definitions.py"]


def test_a_second_apply_changes_nothing_and_says_so(offline: Offline):
    first = run("apply")
    assert first.returncode == 0, first.stderr
    assert "Nothing changed" not in first.stdout
    before = version(offline)
    second = run("apply")
    assert second.returncode == 0, second.stderr
    assert "Nothing changed in the online tables." in second.stdout
    assert "Nothing changed in the registry." in second.stdout
    assert version(offline) == before
    planned = run("plan")
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.splitlines()[-2:] == [
        "No changes to registry", "No changes to infrastructure"
    ]  # fmt: skip


def test_a_plan_is_empty_after_a_materialization_too(offline: Offline, store: FeatureStore):
    offline.publish(offline.month(JAN, ["a", "b"]))
    store.materialize_incremental(datetime(2024, 12, 31, tzinfo=timezone.utc))
    view = FeatureStore(repo_path=str(REPO)).get_feature_view("usage_features")
    assert view.materialization_intervals  # what Feast compares, though no definition has it
    assert planned_changes() == []
    before = version(offline)
    apply_definitions(FeatureStore(repo_path=str(REPO)))
    assert version(offline) == before


def test_what_did_change_is_planned_applied_and_then_settled(offline: Offline, store: FeatureStore):
    path = offline.target / "manifest.json"

    def settles(manifest: dict, *planned: str) -> None:
        path.write_text(json.dumps(manifest))
        shown = plan()
        for part in planned:
            assert part in BOLD.sub("", shown)
        before = version(offline)
        apply_definitions(FeatureStore(repo_path=str(REPO)))
        assert version(offline) == before + 1
        assert planned_changes() == []
        apply_definitions(FeatureStore(repo_path=str(REPO)))
        assert version(offline) == before + 1

    manifest = json.loads(path.read_text())
    model = manifest["nodes"]["model.streamflow.usage_features"]
    model["description"] = "Another text."
    settles(manifest, "Updated feature view usage_features", "Another text.")
    model["columns"]["skips_7d"]["description"] = "What skips are."
    settles(manifest, "Updated feature view usage_features", "What skips are.")
    model["config"]["meta"]["feast"]["ttl_days"] = 3
    settles(manifest, "Updated feature view usage_features", "ttl")
    model["config"]["meta"]["owner"] = "somebody else"
    settles(manifest, "Updated feature view usage_features", "somebody else")
    exposure = manifest["exposures"]["exposure.streamflow.small"]
    exposure["description"] = "Another service."
    settles(manifest, "Updated feature service small")
    # The order of columns is that of a training set.
    model["columns"] = dict(reversed(model["columns"].items()))
    settles(manifest, "Updated feature view usage_features")
    offline.define({**VIEWS, "usage_features": {**VIEWS["usage_features"], "extra": "bigint"}})
    settles(json.loads(path.read_text()), "Updated feature view usage_features", "extra")
