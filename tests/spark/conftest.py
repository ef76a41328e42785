"""Spark is an extra: where it is not installed these tests are left out, and say so."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.database import Database


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lacking = [name for name in ("pyspark", "duckdb") if importlib.util.find_spec(name) is None]
    if lacking:
        here = Path(__file__).parent
        skip = pytest.mark.skip(reason=f"{lacking[0]} is not installed: make spark")
        for item in items:
            if item.path.is_relative_to(here):
                item.add_marker(skip)


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty lake."""
    monkeypatch.setenv("STREAMFLOW_LAKE", str(tmp_path / "lake"))
    return tmp_path / "lake"


@pytest.fixture(scope="module")
def both(empty_template: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Two empty databases and an empty lake, for a whole module."""
    from tests.conftest import _clone, _drop
    from tests.spark.sides import DATABASES, Sides, stop_session

    before = os.environ.get("STREAMFLOW_SPARK_COMPILE")
    os.environ["STREAMFLOW_SPARK_COMPILE"] = "false"  # for few rows it takes longer than they do
    _clone(empty_template.ready())  # type: ignore[attr-defined]
    sides = Sides(tmp_path_factory.mktemp("both"))
    yield sides
    stop_session()
    for name in DATABASES.values():
        _drop(Database().model_copy(update={"database": name}))
    if before is None:
        del os.environ["STREAMFLOW_SPARK_COMPILE"]
