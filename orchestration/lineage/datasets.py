"""What the steps read and wrote, as OpenLineage's datasets: schema, column lineage, tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import (
    column_lineage_dataset,
    data_quality_assertions_dataset,
    output_statistics_output_dataset,
    schema_dataset,
    symlinks_dataset,
)

from data.contract import declared
from data.database import Database
from orchestration.lineage import facets
from orchestration.lineage.facets import Facet, Place
from orchestration.lineage.project import ProjectLineage, compiled_manifest, read
from streamflow_feast.dbt.manifest import FeatureTable, parse_manifest

Datasets = tuple[list[InputDataset], list[OutputDataset]]
Fields = Iterable[tuple[str, str, str]]  # name, type, meaning


def _schema(fields: Fields) -> schema_dataset.SchemaDatasetFacet:
    return schema_dataset.SchemaDatasetFacet(
        fields=[
            schema_dataset.SchemaDatasetFacetFields(name=name, type=kind, description=about)
            for name, kind, about in fields
        ]
    )


def _lineage(facet: Facet) -> column_lineage_dataset.ColumnLineageDatasetFacet:
    """The client's object of a facet in the form of `make lineage`'s file."""

    def inputs(given: list[Facet]) -> list[column_lineage_dataset.InputField]:
        return [
            column_lineage_dataset.InputField(
                namespace=field["namespace"],
                name=field["name"],
                field=field["field"],
                transformations=[
                    column_lineage_dataset.Transformation(**t) for t in field["transformations"]
                ],
            )
            for field in given
        ]

    return column_lineage_dataset.ColumnLineageDatasetFacet(
        fields={
            name: column_lineage_dataset.Fields(inputFields=inputs(of["inputFields"]))
            for name, of in facet["fields"].items()
        },
        dataset=inputs(facet["dataset"]),
    )


def _in(place: Place, fields: Fields, **more: Any) -> InputDataset:
    return InputDataset(*place, facets={"schema": _schema(fields), **more})


def _out(place: Place, fields: Fields, lineage: Facet, rows: int | None = None) -> OutputDataset:
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=rows)
    return OutputDataset(
        *place,
        facets={"schema": _schema(fields), "columnLineage": _lineage(lineage)},
        outputFacets={} if rows is None else {"outputStatistics": statistics},
    )


def _postgres(schema: str, name: str) -> Place:
    database = Database()
    return f"postgres://{database.host}:{database.port}", f"{database.database}.{schema}.{name}"


def of_ingest(result: Any) -> Datasets:
    """The files of a drop, and the raw tables that they went into. `result` is a LoadResult."""
    tables = {table.name: table for table in declared()}
    inputs, outputs = [], []
    for name, file in result.drop.files.items():
        fields = [(c.name, c.type.sql, c.meaning) for c in tables[name].columns]
        place = ("file", str(Path(file).resolve()))
        link = symlinks_dataset.Identifier(namespace=facets.DROP, name=name, type="TABLE")
        symlinks = symlinks_dataset.SymlinksDatasetFacet(identifiers=[link])
        inputs.append(_in(place, fields, symlinks=symlinks))
        lineage = facets.facet({column: facets.identity(place, column) for column, *_ in fields})
        added = result.tables[name].added
        outputs.append(_out(_postgres("raw", name), fields, lineage, added))
    return inputs, outputs


def of_build(rows_appended: Mapping[str, int]) -> Datasets:
    """The raw tables, and every model with the columns that it was made from."""
    project = read(compiled_manifest())
    places = facets.Places(project, Database())
    inputs = [
        _in(places.relation(unique_id), _columns(project, unique_id))
        for unique_id, columns in project.raw.items()
        if columns
    ]
    outputs = [
        _out(
            places.relation(unique_id),
            _columns(project, unique_id),
            facets.model_dataset(project, places, unique_id)["facets"]["columnLineage"],
            rows_appended.get(project.node(unique_id)["name"]),
        )
        for unique_id in project.steps
    ]
    return inputs, outputs


def _columns(project: ProjectLineage, unique_id: str) -> Fields:
    columns = project.node(unique_id)["columns"]
    names = project.steps[unique_id].columns if unique_id in project.steps else columns
    for name in names:
        about = columns.get(name, {})
        yield name, about.get("data_type") or "", " ".join((about.get("description") or "").split())


def of_tests(began: datetime) -> list[InputDataset]:
    """The models that dbt's tests looked at in the build that began then, with what they said."""
    manifest = compiled_manifest()
    project = read(manifest)
    places = facets.Places(project, Database())
    with Database().connect() as connection:
        results = connection.execute(
            "select test_id, tests.status, failures, message from ledger.tests"
            " inner join ledger.builds using (invocation_id)"
            " where started_at >= %s and tests.status <> 'skipped'",
            [began],
        ).fetchall()
    tests = {**manifest["nodes"], **(manifest.get("unit_tests") or {})}
    found: dict[str, list[Any]] = {}
    for test_id, status, failures, message in results:
        test = tests[test_id]
        models = [n for n in test["depends_on"]["nodes"] if n in project.steps]
        model = test.get("attached_node") or (models[-1] if models else None)
        if model is None or model not in project.steps:
            continue
        kind = (test.get("test_metadata") or {}).get("name") or test["resource_type"]
        severity = str((test.get("config") or {}).get("severity") or "error").lower()
        found.setdefault(model, []).append(
            data_quality_assertions_dataset.Assertion(
                assertion=kind,
                success=status in ("pass", "success"),
                column=test.get("column_name"),
                severity="warn" if status == "warn" else severity,
                name=test["name"],
                actual=f"{failures} rows" if failures else message or None,
            )
        )
    return [
        InputDataset(
            *places.relation(model),
            facets={"schema": _schema(_columns(project, model))},
            inputFacets={
                "dataQualityAssertions": (
                    data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(assertions)
                )
            },
        )
        for model, assertions in found.items()
    ]


def _features(table: FeatureTable) -> list[tuple[str, str, str]]:
    keys = [(key, kind, "") for key, kind in table.entity.keys.items()]
    return keys + [(c.name, c.type, c.description) for c in table.columns]


def of_materialize() -> Datasets:
    """The feature tables, and the online tables that were filled from them."""
    inputs, outputs = [], []
    for table in parse_manifest(compiled_manifest()).tables:
        source, fields = _postgres("features", table.name), _features(table)
        inputs.append(_in(source, fields))
        lineage = facets.facet({name: facets.identity(source, name) for name, *_ in fields})
        outputs.append(_out(_postgres("online", table.name), fields, lineage))
    return inputs, outputs


def of_training_set(result: Any) -> Datasets:
    """The feature tables and the label, and the files. `result` is a TrainingSet."""
    from orchestration.lineage.served import read_served
    from streamflow_feast.training.training_set import LABEL

    served = read_served(compiled_manifest())
    tables = {table.name: table for table in served.manifest.tables}
    of: dict[str, list[tuple[str, str]]] = {}
    for ref in result.manifest["features"]:
        view, _, name = ref.partition(":")
        computed = served.computed.get(view)
        of[name] = list(computed.inputs) if computed else [(view, name)]
    names = result.table.column_names
    fields = {
        name: facets.input_fields(
            (_postgres("features", view), column, facets.DIRECT,
             "IDENTITY" if (view, column) == (view, name) else "TRANSFORMATION")
            for view, column in of[name]
        )
        for name in names
        if name in of
    }  # fmt: skip
    used = {view for sources in of.values() for view, _ in sources}
    inputs = [_in(_postgres("features", view), _features(tables[view])) for view in sorted(used)]
    label = [(n, "boolean", "") for n in names if n == LABEL]
    if label and result.manifest.get("as_of"):  # of snapshots: the label is the project's own
        place = _postgres("features", "churn_labels")
        fields[LABEL] = facets.identity(place, LABEL)
        inputs.append(_in(place, label))
    kinds = [(field.name, str(field.type), "") for field in result.table.schema]
    rows = result.table.num_rows
    outputs = [
        _out(("file", str(file.resolve())), kinds, facets.facet(fields), rows)
        for file in result.files
        if file.suffix in (".parquet", ".csv")
    ]
    return inputs, outputs
