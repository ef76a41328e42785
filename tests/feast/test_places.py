"""The right manifest and the right settings, wherever the program runs that asks for features."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from feast import FeatureStore

from streamflow_feast.dbt.feast_objects import apply_definitions
from tests.end_to_end.test_readme import blocks
from tests.feast.conftest import REPO
from tests.feast.offline import VIEWS, Offline, manifest
from tests.feast.test_commands import FEAST


@pytest.fixture
def checkouts(offline: Offline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Two checkouts, each with dbt's manifest of its own and a registry of its own."""
    monkeypatch.delenv("DBT_TARGET_PATH")
    repos = {}
    for name, view in (("one", "usage_features"), ("two", "user_features")):
        repo = tmp_path / name / "feature_repo"
        repo.mkdir(parents=True)
        shutil.copy(REPO / "definitions.py", repo)
        yaml = (REPO / "feature_store.yaml").read_text()
        settings = yaml.replace("path: streamflow ", f"path: registry_{name} ")
        assert settings != yaml
        (repo / "feature_store.yaml").write_text(settings)
        target = tmp_path / name / "dbt_project" / "target"
        target.mkdir(parents=True)
        (target / "manifest.json").write_text(json.dumps(manifest({view: VIEWS[view]})))
        repos[name] = repo
    return repos


def views(repo: Path) -> list[str]:
    return [view.name for view in FeatureStore(repo_path=str(repo)).list_feature_views()]


def test_two_checkouts_in_one_process(
    checkouts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stores = [FeatureStore(repo_path=f"{name}/feature_repo") for name in ("one", "two")]
    for store in stores:
        apply_definitions(store)
    monkeypatch.chdir("/")
    assert views(checkouts["one"]) == ["usage_features"]
    assert views(checkouts["two"]) == ["user_features"]
    assert [view.name for view in stores[0].list_feature_views()] == ["usage_features"]


def test_feast_from_outside_of_its_repo(checkouts: dict[str, Path], tmp_path: Path) -> None:
    for path in (str(checkouts["one"]), "two/feature_repo"):
        done = subprocess.run(
            [str(FEAST), "-c", path, "apply"],
            cwd=tmp_path, env=os.environ.copy(), capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert views(checkouts["one"]) == ["usage_features"]
    assert views(checkouts["two"]) == ["user_features"]


def test_the_readmes_lines_for_a_notebook(sample, tmp_path: Path) -> None:
    (lines,) = blocks("not run: tests/feast/test_places.py runs it")
    assert '"feature_repo"' in lines
    script = lines.replace('"feature_repo"', repr(str(REPO)))
    script += "print(len(training), training['skips_7d'].dtype)\n"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, env=os.environ.copy(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with sample.connect() as connection:
        query = "select count(*) from published.user_features_latest"
        (count,) = connection.execute(query).fetchone() or (0,)
    assert done.stdout.split()[-2:] == [str(count), "Int64"]
