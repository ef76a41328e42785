"""Where raw rows and features lie (STREAMFLOW_TARGET): in Postgres, or on a lake."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from data.database import Database
from data.load.load import LoadResult
from data.load.load import load as load_into_postgres
from data.load.loaded import last_load as last_load_in_postgres

TARGETS = ("postgres", "spark")  # dbt's, of dbt_project/profiles.yml


class TargetError(ValueError):
    """The target is none, or is not installed; says what to do."""


def target() -> str:
    """One of TARGETS.

    Raises:
        TargetError: the environment names another, or Spark where it is not installed.
    """
    named = os.environ.get("STREAMFLOW_TARGET") or TARGETS[0]
    if named not in TARGETS:
        raise TargetError(f"STREAMFLOW_TARGET is {named!r}; expected one of {', '.join(TARGETS)}")
    if named == "spark" and not all(map(importlib.util.find_spec, ("pyspark", "duckdb"))):
        raise TargetError("The target is spark, which is not installed here: make spark")
    return named


def load(
    folder: Path | str, settings: Database | None = None, *, quarantine: Path | None = None
) -> LoadResult:
    """Load a drop to where the target has its raw rows; DropError as each of the two."""
    if target() == "spark":
        from data.lake.load import load as load_into_lake

        return load_into_lake(folder, quarantine=quarantine)
    return load_into_postgres(folder, settings, quarantine=quarantine)


def last_load(folder: Path) -> int | None:
    """The newest load of the drop `folder`, if it was of these very files; otherwise None."""
    if target() == "spark":
        from data.lake.load import last_load as last_load_in_lake

        return last_load_in_lake(folder)
    return last_load_in_postgres(folder)
