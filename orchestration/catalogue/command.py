"""What the API's catalogue shows of each feature, worked out once a publication and kept.

Lineage, SQL, statistics over as_of's, drift, tests and training sets go to `ledger.catalogue`, a
document a feature: a request reads it and counts nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from data.contract import declared
from data.database import Database
from data.errors import command
from data.paths import PROCESSED
from orchestration import steps
from orchestration.catalogue.expression import expressions
from orchestration.catalogue.statistics import Series, statistics
from orchestration.lineage.command import lineage
from orchestration.lineage.facets import kind
from orchestration.lineage.project import ProjectLineage
from orchestration.lineage.served import Computed, Served
from orchestration.lineage.sql import Uses
from streamflow_feast.dbt.manifest import Column, FeatureTable

Document = dict[str, Any]


def catalogue() -> int:
    """Make every feature's document anew; how many there are.

    Raises:
        StepError: see `lineage`; or nothing is published.
    """
    project, served, _ = lineage()
    with (
        steps.told_as("catalogue", "make build apply catalogue"),
        Database().connect(application_name="streamflow catalogue") as connection,
    ):
        row = connection.execute(
            "select known_at, invocation_id from ledger.publications order by known_at desc limit 1"
        ).fetchone()
        if row is None:
            raise steps.StepError("catalogue", "nothing is published yet", "make build catalogue")
        documents = list(_documents(connection, project, served, row[1]))
        connection.execute("delete from ledger.catalogue")
        with connection.cursor() as cursor:
            cursor.executemany(
                "insert into ledger.catalogue (view_name, feature, publication, document)"
                " values (%s, %s, %s, %s)",
                [(d["view"], d["name"], row[0], json.dumps(d)) for d in documents],
            )
    return len(documents)


def _documents(
    connection: psycopg.Connection, project: ProjectLineage, served: Served, invocation: str
) -> Iterator[Document]:
    tests = _tests(connection, project, invocation)
    sets = training_sets(PROCESSED)
    raw: dict[tuple[str, str], list[Document]] = {}
    for table in served.manifest.tables:
        if not _is_published(connection, table):
            continue
        series, drifts = statistics(connection, table)
        for column in table.columns:
            inputs = raw[table.name, column.name] = _inputs(
                project, project.from_raw[table.unique_id].columns[column.name]
            )
            yield _feature(
                project, served, table, column, inputs, series[column.name],
                drifts.get(column.name), tests, sets,
            )  # fmt: skip
    for view in served.computed.values():
        if all(source in raw for source in view.inputs):
            for field in view.features:
                yield _computed(served, view, field, raw, sets)


def _is_published(connection: psycopg.Connection, table: FeatureTable) -> bool:
    """Whether readers see all columns that the project defines; else the table is left out."""
    rows = connection.execute(
        "select attname from pg_attribute where attrelid ="
        " to_regclass(format('published.%%I', %s::text)) and attnum > 0 and not attisdropped",
        [f"{table.name}_latest"],
    )
    return {column.name for column in table.columns} <= {name for (name,) in rows}


def _feature(
    project: ProjectLineage,
    served: Served,
    table: FeatureTable,
    column: Column,
    inputs: list[Document],
    series: Series,
    drift: Document | None,
    tests: Mapping[tuple[str, str], list[Document]],
    sets: Sequence[Document],
) -> Document:
    node = project.node(table.unique_id)
    of = project.from_raw[table.unique_id]
    named = {(use["table"], use["column"]) for use in inputs}
    rows = [use for use in _inputs(project, of.rows) if (use["table"], use["column"]) not in named]
    sql = expressions(
        node["compiled_code"], column.name, project.manifest["metadata"]["adapter_type"]
    )
    return {
        "view": table.name,
        "name": column.name,
        "on_demand": False,
        "description": column.description,
        "unit": column.unit,
        "type": column.type,
        "owner": table.owner,
        "entity": table.entity.name,
        "keys": list(table.entity.keys),
        "file": f"dbt_project/{node['original_file_path']}",
        "expressions": [{"name": name, "sql": text} for name, text in sql],
        "raw": inputs,
        "rows": rows,
        "models": _models(project, table.unique_id, inputs),
        "inputs": [],
        "request": [],
        "computed": served.made_from(table.name, column.name),
        "services": _services(served, table.name, column.name),
        "training_sets": _used(sets, table.name, column.name),
        "series": series,
        "drift": drift,
        "tests": tests.get((table.unique_id, column.name), [])
        + tests.get((table.unique_id, ""), []),
    }


def _computed(
    served: Served,
    view: Computed,
    field: Any,
    raw: Mapping[tuple[str, str], list[Document]],
    sets: Sequence[Document],
) -> Document:
    merged: dict[tuple[str, str], Document] = {}
    for source in view.inputs:
        for use in raw[source]:
            known = merged.setdefault((use["table"], use["column"]), {**use, "kinds": []})
            known["kinds"] = sorted({*known["kinds"], *use["kinds"]}, reverse=True)
    sources = [table for table in served.manifest.tables if table.name in dict(view.inputs)]
    keys = list(dict.fromkeys(key for table in sources for key in table.entity.keys))
    return {
        "view": view.name,
        "name": field.name,
        "on_demand": True,
        "description": field.description,
        "unit": field.tags.get("unit", ""),
        "type": field.dtype.to_value_type().name.lower(),
        "owner": view.owner,
        "entity": sources[0].entity.name if sources else "",
        "keys": keys,
        "file": "feature_repo/on_demand.py",
        "expressions": [{"name": view.name, "sql": view.code}],
        "raw": list(merged.values()),
        "rows": [],
        "models": [],
        "inputs": [{"view": v, "name": n, "raw": raw[v, n]} for v, n in view.inputs],
        "request": [{"name": name, "type": of} for name, of in view.request.items()],
        "computed": [],
        "services": _services(served, view.name, field.name),
        "training_sets": _used(sets, view.name, field.name),
        "series": [],
        "drift": None,
        "tests": [],
    }


def _inputs(project: ProjectLineage, uses: Uses) -> list[Document]:
    """Columns of raw files, with their meaning and all that they are used for; values first."""
    meanings = {(t.name, c.name): (c.meaning, c.unit or "") for t in declared() for c in t.columns}
    found: dict[tuple[str, str], set[str]] = {}
    for use in uses:
        if use.column in project.raw[use.relation]:
            of = (project.node(use.relation)["name"], use.column)
            found.setdefault(of, set()).add(kind(use.type, use.subtype))
    return [
        {
            "table": table,
            "column": column,
            "meaning": meanings.get((table, column), ("", ""))[0],
            "unit": meanings.get((table, column), ("", ""))[1],
            "kinds": sorted(found[table, column], reverse=True),
        }
        for table, column in sorted(found, key=lambda of: ("value" not in found[of], of))
    ]


def _models(project: ProjectLineage, unique_id: str, inputs: list[Document]) -> list[Document]:
    """The staging models that its raw columns come through."""
    tables = {use["table"] for use in inputs}
    staging = {}
    for node in project.manifest["nodes"].values():
        for source in node["depends_on"]["nodes"] if node["resource_type"] == "model" else ():
            if source in project.raw and project.node(source)["name"] in tables:
                staging[project.node(source)["name"]] = node["name"]
    return [{"table": table, "model": staging[table]} for table in sorted(staging)]


def _services(served: Served, view: str, name: str) -> list[Document]:
    about = {service.name: service.description for service in served.manifest.services}
    return [
        {"name": service, "field": field, "description": about.get(service, "")}
        for service, field in served.used_in(view, name)
    ]


def _tests(
    connection: psycopg.Connection, project: ProjectLineage, invocation: str
) -> dict[tuple[str, str], list[Document]]:
    """(model, column or "" for all of it) -> dbt's tests and what they last said."""
    results = {
        test_id: (status, failures)
        for test_id, status, failures in connection.execute(
            "select test_id, status, failures from ledger.tests where invocation_id = %s",
            [invocation],
        )
    }
    found: dict[tuple[str, str], list[Document]] = {}
    units = project.manifest.get("unit_tests") or {}
    for unique_id, node in {**project.manifest["nodes"], **units}.items():
        if node["resource_type"] not in ("test", "unit_test") or unique_id not in results:
            continue
        status, failures = results[unique_id]
        model = node.get("attached_node") or next(
            (n for n in node["depends_on"]["nodes"] if n.startswith("model.")), ""
        )
        told = {
            "name": node["name"],
            "kind": node["resource_type"],
            "description": node.get("description") or "",
            "status": status,
            "failures": failures,
        }
        found.setdefault((model, node.get("column_name") or ""), []).append(told)
    return found


def training_sets(folder: Path) -> list[Document]:
    """The training sets in a folder, by the JSON beside each: what they hold, since when."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and "feature_service" in content and "features" in content:
            found.append({**content, "file": path.stem})
    return found


def _used(sets: Sequence[Document], view: str, name: str) -> list[Document]:
    return [
        {
            "file": one["file"],
            "service": one["feature_service"],
            "as_of": one.get("as_of") or [],
            "known_at": (one.get("publication") or {}).get("known_at"),
            "rows": one.get("rows"),
        }
        for one in sets
        if f"{view}:{name}" in one["features"]
    ]


def refresh() -> None:
    """Make the documents anew, at the end of other steps: what they did stands, whatever this says.

    A lineage that cannot be told (`make lineage` fails with it) leaves the catalogue as it was.
    """
    with Database().connect() as connection:
        published = connection.execute("select from ledger.publications limit 1").fetchone()
    try:
        if published is not None:
            catalogue()
    except steps.StepError as error:
        steps.say(f"  warning: the API's catalogue stays as it was. {error}")


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    made = catalogue()
    steps.say(f"  {made} features in the API's catalogue: /browse")
    return 0
