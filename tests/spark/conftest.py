"""Spark is an extra: where it is not installed these tests are left out, and say so."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


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
