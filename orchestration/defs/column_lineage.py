"""Column lineage in Dagster's own form, for the assets of orchestration/defs/assets.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import dagster as dg
from dagster import TableColumnDep, TableColumnLineage

from orchestration.lineage.project import ProjectLineage, compiled_manifest, read
from orchestration.lineage.sql import ROWS

KEY = "dagster/column_lineage"
Metadata = Mapping[str, TableColumnLineage]


def models() -> dict[str, Metadata]:
    """dbt's unique_id -> metadata that says which columns go into each of its columns, as value,
    filter or join key: Dagster tells no kinds apart. Call it after a build: it reads its SQL."""
    project = read(compiled_manifest())
    found: dict[str, Metadata] = {}
    for unique_id, step in project.steps.items():
        deps = {
            column: [
                TableColumnDep(_key(project, of), name)
                for of, name in sorted({(use.relation, use.column) for use in uses})
                if name != ROWS
            ]
            for column, uses in step.columns.items()
        }
        found[unique_id] = {KEY: TableColumnLineage(deps)}
    return found


def passed_on(key: list[str], columns: Iterable[str]) -> Metadata:
    """Metadata of an asset whose columns are those of another as they are."""
    deps = {column: [TableColumnDep(dg.AssetKey(key), column)] for column in columns}
    return {KEY: TableColumnLineage(deps)}


def _key(project: ProjectLineage, unique_id: str) -> dg.AssetKey:
    node = project.node(unique_id)
    return dg.AssetKey([node["schema"], node["name"]])
