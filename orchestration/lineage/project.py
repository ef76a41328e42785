"""Column lineage through the dbt project: each model's own step, and from end to end.

Read from dbt's manifest and the compiled SQL in it, the SQL that ran. Two things are no part of
what a value is, and are not followed (docs/decisions/0140-column-lineage.md): which pairs a build
computes (a feature model reads changes_<entity>, of which its rows are those of spine_<entity>),
and which versions differ from the stored ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from sqlglot import exp

from data.contract.declaration import BOOKKEEPING
from data.paths import DBT_PROJECT
from orchestration.lineage.sql import (
    INDIRECT,
    NONE,
    ROWS,
    LineageError,
    QueryLineage,
    Use,
    Uses,
    indirect,
    lineage_of,
    relation,
    through,
)
from streamflow_feast.dbt.manifest import manifest_path

VERSION_COLUMNS = ("as_of", "known_at", "is_retracted")


@dataclass(frozen=True)
class ProjectLineage:
    """By dbt's unique_id: `steps` of each model from what it reads, `from_raw` of each model from
    raw columns; `raw` are the sources with the columns that files have ("": the loader's own)."""

    manifest: Mapping[str, Any]
    steps: Mapping[str, QueryLineage]
    from_raw: Mapping[str, QueryLineage]
    raw: Mapping[str, tuple[str, ...]]

    def node(self, unique_id: str) -> Mapping[str, Any]:
        """A model or a source of the manifest."""
        found: Mapping[str, Any] = (
            self.manifest["nodes"].get(unique_id) or self.manifest["sources"][unique_id]
        )
        return found

    def features(self) -> Iterator[tuple[Mapping[str, Any], str]]:
        """(model, column) of every versioned model: its features, or its label."""
        for unique_id in sorted(self.steps):
            node = self.manifest["nodes"][unique_id]
            if is_versioned(node):
                keys = {*VERSION_COLUMNS, *self._join_keys(node)}
                for column in node["columns"]:
                    if column not in keys:
                        yield node, column

    def _join_keys(self, node: Mapping[str, Any]) -> Iterable[str]:
        meta = _meta(node)
        name = (meta.get("made_from") or {}).get("entity") or (meta.get("feast") or {}).get(
            "entity"
        )
        for other in self.manifest["nodes"].values():
            entity = _meta(other).get("entity") if other["resource_type"] == "model" else None
            if entity and entity["name"] == name:
                return tuple(entity["join_keys"])
        return ()

    def uses(self, unique_id: str, column: str) -> Uses:
        """The raw columns behind a model's column, those that decide about its rows included."""
        found = self.from_raw[unique_id]
        return found.columns[column] | found.rows


def compiled_manifest(path: Path | None = None) -> Mapping[str, Any]:
    """dbt's manifest with the SQL of every model: the one of the last build, or else compiled anew.

    Raises:
        LineageError: dbt cannot compile the project.
    """
    path = path or manifest_path()
    content = _with_sql(path)
    if content is None:
        from dbt.cli.main import dbtRunner

        project = ["--project-dir", str(DBT_PROJECT), "--profiles-dir", str(DBT_PROJECT)]
        done = dbtRunner().invoke(["--quiet", "--no-use-colors", "compile", *project])
        content = _with_sql(path) if done.success else None
        if content is None:
            raise LineageError(f"dbt cannot compile the project: {done.exception or 'see above'}")
    return content


def _with_sql(path: Path) -> Mapping[str, Any] | None:
    try:
        content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return content if all(node.get("compiled_code") for node in _models(content)) else None


def read(manifest: Mapping[str, Any]) -> ProjectLineage:
    """The lineage of every column of every model.

    Raises:
        LineageError: names the model and the column that cannot be resolved, or the feature that
            no column of a raw file goes into.
    """
    others = {node["unique_id"]: node for node in _nodes(manifest, "seed", "snapshot")}
    given = {**manifest["sources"], **others}
    # Of a seed or snapshot no column is one of a raw file.
    raw = {uid: () if uid in others else tuple(node["columns"]) for uid, node in given.items()}
    relations = {
        _place(node): relation(uid, [*node["columns"], *BOOKKEEPING] if raw[uid] else None)
        for uid, node in given.items()
    }
    models = {node["unique_id"]: node for node in _models(manifest)}
    order = TopologicalSorter(
        {
            uid: [d for d in node["depends_on"]["nodes"] if d in models]
            for uid, node in models.items()
        }
    )
    steps: dict[str, QueryLineage] = {}
    for unique_id in order.static_order():
        node = models[unique_id]
        steps[unique_id] = _step(node, relations, manifest["metadata"]["adapter_type"])
        relations[_place(node)] = relation(unique_id, steps[unique_id].columns)
    found = ProjectLineage(manifest, steps, _from_raw(steps, models), raw)
    _require_raw(found)
    return found


def _step(
    node: Mapping[str, Any], relations: Mapping[tuple[str, str], QueryLineage], dialect: str
) -> QueryLineage:
    where = f"model {node['name']} ({node['original_file_path']})"

    def of(table: exp.Table) -> QueryLineage:
        place = (table.db, table.name)
        if place == _place(node):
            return QueryLineage(dict.fromkeys(node["columns"], NONE), own=True)
        if place not in relations:
            raise LineageError(f"{where} reads {table.sql()}, which is no model or source of dbt")
        return relations[place]

    found = lineage_of(node["compiled_code"], of, dialect, where)
    for column in node["columns"] if is_versioned(node) else ():
        if column not in found.columns:
            raise LineageError(f"{where}: column {column} of its YAML is not in its SQL")
    return found


def _from_raw(
    steps: Mapping[str, QueryLineage], models: Mapping[str, Mapping[str, Any]]
) -> dict[str, QueryLineage]:
    spines = {
        f"changes_{entity['name']}": unique_id
        for unique_id, node in models.items()
        if (entity := _meta(node).get("entity"))
    }
    resolved: dict[str, QueryLineage] = {}
    for unique_id, step in steps.items():
        spine = spines.get(models[unique_id]["name"])
        if spine is None:
            columns = {c: _composed(uses, resolved) for c, uses in step.columns.items()}
            resolved[unique_id] = QueryLineage(columns, _composed(step.rows, resolved))
        else:
            of = resolved[spine]
            resolved[unique_id] = QueryLineage(
                {column: of.columns.get(column, NONE) for column in step.columns}, of.rows
            )
    return resolved


def _composed(uses: Uses, resolved: Mapping[str, QueryLineage]) -> Uses:
    found: set[Use] = set()
    for use in uses:
        upstream = resolved.get(use.relation)
        if upstream is None:
            found |= {use} if use.column != ROWS else NONE
        elif use.column == ROWS:
            found |= upstream.rows
        else:
            of = upstream.columns[use.column]
            found |= (indirect if use.type == INDIRECT else through)(of, use.subtype)
    return frozenset(found)


def _require_raw(project: ProjectLineage) -> None:
    for node, column in project.features():
        of = project.from_raw[node["unique_id"]].columns[column]
        if not any(use.column in project.raw[use.relation] for use in of):
            raise LineageError(
                f"model {node['name']} ({node['original_file_path']}): no column of a raw file "
                f"goes into {column}. A feature comes from raw data: take it out, or make it of "
                "some"
            )


def is_versioned(node: Mapping[str, Any]) -> bool:
    """Whether a model is a table of features or labels."""
    return bool(node["schema"] == "features")


def _models(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return _nodes(manifest, "model")


def _nodes(manifest: Mapping[str, Any], *types: str) -> list[Mapping[str, Any]]:
    return [node for node in manifest["nodes"].values() if node["resource_type"] in types]


def _place(node: Mapping[str, Any]) -> tuple[str, str]:
    return node["schema"], node.get("alias") or node.get("identifier") or node["name"]


def _meta(node: Mapping[str, Any]) -> Mapping[str, Any]:
    return (node.get("config") or {}).get("meta") or node.get("meta") or {}
