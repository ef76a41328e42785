"""Lineage in the form of OpenLineage's columnLineage facet, as `make lineage` writes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data.database import Database
from orchestration.lineage.project import ProjectLineage
from orchestration.lineage.served import Served
from orchestration.lineage.sql import DIRECT, ROWS, Use
from streamflow_feast.training.training_set import LABEL

PRODUCER = "https://streamflow.invalid/feature-store"  # a name; nothing is fetched from there
SCHEMA = (
    "https://openlineage.io/spec/facets/1-2-0/ColumnLineageDatasetFacet.json"
    "#/$defs/ColumnLineageDatasetFacet"
)
# Namespaces of what has no address of its own.
DROP, VIEWS, SERVICES = "streamflow/drop", "feast/feature_view", "feast/feature_service"
REQUEST, TRAINING, API = "feast/request", "streamflow/training_set", "streamflow/api"
Facet = dict[str, Any]
Place = tuple[str, str]  # namespace and name of a dataset


def kind(use_type: str, subtype: str) -> str:
    """In the words of people: value, join key or filter."""
    if use_type == DIRECT:
        return "value"
    return "join key" if subtype == "JOIN" else "filter"


class Places:
    """Where the relations of dbt and the files of drops are, as OpenLineage names datasets."""

    def __init__(self, project: ProjectLineage, database: Database) -> None:
        self._project = project
        self._namespace = f"postgres://{database.host}:{database.port}"

    def relation(self, unique_id: str) -> Place:
        node = self._project.node(unique_id)
        name = node.get("alias") or node.get("identifier") or node["name"]
        return self._namespace, f"{node['database']}.{node['schema']}.{name}"

    def file(self, unique_id: str) -> Place:
        return DROP, self._project.node(unique_id)["name"]

    def of_raw(self, use: Use) -> Place:
        """The file of a drop that has a raw column, or the raw table for what the loader adds."""
        in_file = use.column in self._project.raw[use.relation]
        return self.file(use.relation) if in_file else self.relation(use.relation)


def input_fields(uses: Iterable[tuple[Place, str, str, str]]) -> list[Facet]:
    """(dataset, field, type, subtype) as inputFields: one a field, with all it is used for."""
    found: dict[tuple[Place, str], set[tuple[str, str]]] = {}
    for place, field, use_type, subtype in uses:
        found.setdefault((place, field), set()).add((use_type, subtype))
    return [
        {
            "namespace": place[0],
            "name": place[1],
            "field": field,
            "transformations": [
                {"type": t, "subtype": s, "description": kind(t, s), "masking": False}
                for t, s in sorted(transformations)
            ],
        }
        for (place, field), transformations in sorted(found.items())
    ]


def facet(fields: Mapping[str, list[Facet]], rows: list[Facet] | None = None) -> Facet:
    """The facet; `rows` are inputs that concern all of its fields."""
    return {
        "_producer": PRODUCER,
        "_schemaURL": SCHEMA,
        "fields": {name: {"inputFields": inputs} for name, inputs in fields.items()},
        "dataset": rows or [],
    }


def dataset(place: Place, of: Facet) -> Facet:
    """A dataset with its column lineage."""
    return {"namespace": place[0], "name": place[1], "facets": {"columnLineage": of}}


def identity(place: Place, field: str) -> list[Facet]:
    """A field that is another as it is."""
    return input_fields([(place, field, DIRECT, "IDENTITY")])


def raw_dataset(places: Places, unique_id: str, columns: Iterable[str]) -> Facet:
    """A raw table, from the files of drops."""
    fields = {column: identity(places.file(unique_id), column) for column in columns}
    return dataset(places.relation(unique_id), facet(fields))


def model_dataset(project: ProjectLineage, places: Places, unique_id: str) -> Facet:
    """A model, from what it reads."""

    def told(uses: Iterable[Use]) -> list[Facet]:
        return input_fields(
            (places.relation(use.relation), use.column, use.type, use.subtype)
            for use in uses
            if use.column != ROWS
        )

    step = project.steps[unique_id]
    fields = {column: told(uses) for column, uses in step.columns.items()}
    return dataset(places.relation(unique_id), facet(fields, told(step.rows)))


def feature_dataset(project: ProjectLineage, places: Places, unique_id: str) -> Facet:
    """A feature model, from raw columns."""

    def told(uses: Iterable[Use]) -> list[Facet]:
        return input_fields((places.of_raw(use), use.column, use.type, use.subtype) for use in uses)

    name = project.node(unique_id)["name"]
    columns = [column for node, column in project.features() if node["unique_id"] == unique_id]
    of = project.from_raw[unique_id]
    fields = {column: told(of.columns[column]) for column in columns}
    return dataset((VIEWS, name), facet(fields, told(of.rows)))


def served_datasets(project: ProjectLineage, served: Served, places: Places) -> list[Facet]:
    """Feature views, on-demand views, services, training sets and what the API answers."""
    found = []
    for table in served.manifest.tables:
        source = places.relation(table.unique_id)
        columns = [*table.entity.keys, *(column.name for column in table.columns)]
        fields = {column: identity(source, column) for column in columns}
        found.append(dataset((VIEWS, table.name), facet(fields)))
    for view in served.computed.values():
        inputs = [((VIEWS, name), field, DIRECT, "TRANSFORMATION") for name, field in view.inputs]
        inputs += [((REQUEST, view.name), name, DIRECT, "TRANSFORMATION") for name in view.request]
        fields = {field.name: input_fields(inputs) for field in view.features}
        found.append(dataset((VIEWS, view.name), facet(fields)))
    labels = {node["name"]: node for node, column in project.features() if column == LABEL}
    keys = {table.name: table.entity.keys for table in served.manifest.tables}
    for service, parts in served.services.items():
        of_views = {
            key: identity((VIEWS, view), key) for view, _, _ in parts for key in keys.get(view, ())
        } | {field: identity((VIEWS, view), name) for view, name, field in parts}
        found.append(dataset((SERVICES, service), facet(of_views)))
        fields = {field: identity((SERVICES, service), field) for field in of_views}
        found.append(dataset((API, service), facet(fields)))
        for node in labels.values():
            place = places.relation(node["unique_id"])
            fields |= {LABEL: identity(place, LABEL), "as_of": identity(place, "as_of")}
        found.append(dataset((TRAINING, service), facet(fields)))
    return found


def document(project: ProjectLineage, served: Served, database: Database) -> Facet:
    """All of it. `datasets` go step by step; `features` come from the columns of raw files."""
    places = Places(project, database)
    raw = [raw_dataset(places, uid, columns) for uid, columns in project.raw.items() if columns]
    models = [model_dataset(project, places, uid) for uid in project.steps]
    versioned = dict.fromkeys(node["unique_id"] for node, _ in project.features())
    return {
        "dbt_invocation_id": project.manifest["metadata"]["invocation_id"],
        "datasets": raw + models + served_datasets(project, served, places),
        "features": [feature_dataset(project, places, unique_id) for unique_id in versioned],
    }


def write(path: Path, content: Facet) -> None:
    """Write the document; what was there before stays until all of it is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
