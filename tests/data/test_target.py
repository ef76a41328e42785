"""STREAMFLOW_TARGET says where raw rows go; a word that is none is told, and Spark that is not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from data.paths import lake
from data.target import TargetError, target


def test_without_a_setting_it_is_postgres(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STREAMFLOW_TARGET", raising=False)
    assert target() == "postgres"


def test_another_word_is_named_with_those_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMFLOW_TARGET", "snowflake")
    with pytest.raises(TargetError, match="'snowflake'; expected one of postgres, spark"):
        target()


def test_spark_where_it_is_not_installed_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMFLOW_TARGET", "spark")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TargetError, match="make spark"):
        target()


def test_the_lake_is_one_place_wherever_a_command_stands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMFLOW_LAKE", "lake")
    assert lake() == tmp_path / "lake"
