"""What dbt's manifest says about feature tables and feature services: the only list of columns.

Pure reading and checking; `feast_objects.py` turns the result into Feast objects.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.paths import ROOT

JOIN_KEY = "user_id"
ENTITY = "user"
KEY_COLUMNS = {
    "user_id": "text",
    "as_of": "timestamp with time zone",
    "known_at": "timestamp with time zone",
    "is_retracted": "boolean",
}
# The online tables add this one; a feature cannot have its name.
RESERVED = {*KEY_COLUMNS, "published_at"}

# Contract types that have an exact Feast equivalent, by the name Postgres itself gives them.
# Not here on purpose: numeric (Feast has no decimal), timestamptz and date (Feast keeps whole
# seconds), smallint (Feast has no 16-bit integer).
EXACT_TYPES = ("bigint", "integer", "double precision", "real", "boolean", "text", "bytea")
ALIASES = {
    "int8": "bigint",
    "int4": "integer",
    "int": "integer",
    "float8": "double precision",
    "float4": "real",
    "bool": "boolean",
    "varchar": "text",
    "character varying": "text",
    "string": "text",
    "timestamptz": "timestamp with time zone",
}


class ManifestError(RuntimeError):
    """dbt's manifest is missing or a model cannot become a feature view; says what to do."""


@dataclass(frozen=True)
class Column:
    """A feature: its Postgres type (one of EXACT_TYPES), meaning and unit ("" where none)."""

    name: str
    type: str
    description: str
    unit: str


@dataclass(frozen=True)
class FeatureTable:
    """A dbt model that is a feature view. `ttl_days` 0 means that values do not expire."""

    name: str
    unique_id: str
    description: str
    owner: str
    tags: Mapping[str, str]
    ttl_days: float
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Service:
    """A feature service: feature table -> the names of its features, or None for all of them."""

    name: str
    description: str
    owner: str
    tags: Mapping[str, str]
    features: Mapping[str, tuple[str, ...] | None]


@dataclass(frozen=True)
class Manifest:
    """What Feast takes from dbt; `adapter` is dbt's adapter_type, for example postgres."""

    adapter: str
    tables: tuple[FeatureTable, ...]
    services: tuple[Service, ...]


def manifest_path(root: Path = ROOT) -> Path:
    """Where dbt writes manifest.json for the project at `root` (DBT_TARGET_PATH is obeyed)."""
    return target_path(root) / "manifest.json"


def target_path(root: Path = ROOT) -> Path:
    """Where dbt puts what it makes: a relative DBT_TARGET_PATH is one inside of the project."""
    return (root / "dbt_project" / (os.environ.get("DBT_TARGET_PATH") or "target")).resolve()


def read_manifest(path: Path | None = None) -> Manifest:
    """Read and check dbt's manifest.

    Raises:
        ManifestError: no manifest there, or a model, column or exposure that Feast cannot take
            exactly; names it and the remedy.
    """
    path = path or manifest_path()
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ManifestError(
            f"dbt's manifest is missing: {path}. Make it with: cd dbt_project && dbt build"
        ) from None
    except json.JSONDecodeError as broken:
        raise ManifestError(
            f"dbt's manifest is damaged: {path} ({broken}). Make it again with: "
            "cd dbt_project && dbt build"
        ) from None
    return parse_manifest(content)


def parse_manifest(content: Mapping[str, Any]) -> Manifest:
    """The feature tables and services of a loaded manifest.json, by name. Raises ManifestError."""
    grains = _tested_columns(content)
    tables = tuple(
        _feature_table(node, grains.get(node["unique_id"], []))
        for node in sorted(content["nodes"].values(), key=lambda node: node["name"])
        if node["resource_type"] == "model" and "feast" in _meta(node)
    )
    if not tables:
        raise ManifestError(
            "No model in dbt's manifest has config.meta.feast, so there is no feature view. "
            "Add `config: {meta: {feast: {entity: user}}}` to a model's YAML, then: "
            "cd dbt_project && dbt build"
        )
    services = tuple(
        _service(exposure, {table.unique_id: table for table in tables})
        for exposure in sorted(content["exposures"].values(), key=lambda node: node["name"])
        if _meta(exposure).get("feast", {}).get("feature_service")
    )
    return Manifest(content["metadata"]["adapter_type"], tables, services)


def as_published(defined: Manifest, published: Manifest) -> tuple[Manifest, list[str]]:
    """What dbt's manifest says of what the last publication holds, and a line for each difference.

    Readers see the columns of a publication as well as its rows: a feature that is defined and not
    yet built and tested is left out, one that is published and no longer defined is still there.
    """
    tables, notes = [], []
    now = {table.name: table for table in defined.tables}
    before = {table.name: table for table in published.tables}
    for name, table in before.items():
        if name not in now:
            notes.append(f"{name} is not defined any more")
            tables.append(table)
            continue
        columns = {column.name: column for column in now[name].columns}
        kept = []
        for column in table.columns:
            new = columns.pop(column.name, None)
            if new is None:
                notes.append(f"{name}.{column.name} is not defined any more")
            elif new.type != column.type:
                notes.append(f"{name}.{column.name} is defined as {new.type}")
            kept.append(new if new is not None and new.type == column.type else column)
        notes += [f"{name}.{column} is new" for column in columns]
        order = [column.name for column in now[name].columns]
        kept.sort(key=lambda c: order.index(c.name) if c.name in order else len(order))
        tables.append(replace(now[name], columns=tuple(kept)))
    notes += [f"{name} is new" for name in now if name not in before]
    there = {table.name: {column.name for column in table.columns} for table in tables}
    services = tuple(
        replace(service, features=features)
        for service in defined.services
        if (features := _among(service.features, there))
    )
    return Manifest(defined.adapter, tuple(tables), services), notes


def _among(
    features: Mapping[str, tuple[str, ...] | None], there: Mapping[str, set[str]]
) -> dict[str, tuple[str, ...] | None]:
    """Those of a service's features that are there."""
    return {
        view: names and tuple(name for name in names if name in there[view])
        for view, names in features.items()
        if view in there
    }


def _meta(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """`meta` of a node or column: under `config` since dbt 1.10, at the top before."""
    return (node.get("config") or {}).get("meta") or node.get("meta") or {}


def _tested_columns(content: Mapping[str, Any]) -> dict[str, list[set[str]]]:
    """Model -> the column lists that its own data tests take as an argument."""
    found: dict[str, list[set[str]]] = {}
    for node in content["nodes"].values():
        if node["resource_type"] == "test" and node.get("attached_node"):
            arguments = (node.get("test_metadata") or {}).get("kwargs") or {}
            arguments = {**arguments, **(arguments.get("arguments") or {})}
            lists = [set(value) for value in arguments.values() if isinstance(value, list)]
            found.setdefault(node["attached_node"], []).extend(lists)
    return found


def _feature_table(node: Mapping[str, Any], tested: list[set[str]]) -> FeatureTable:
    name, feast = node["name"], _meta(node)["feast"]
    where = f"model {name} ({node.get('original_file_path', 'dbt_project')})"
    if feast.get("entity") != ENTITY:
        raise ManifestError(
            f"{where}: meta.feast.entity is {feast.get('entity')!r}. There is one entity, "
            f"{ENTITY!r} with the join key {JOIN_KEY}; views of another or of a composite entity "
            "are not supported. Set `entity: user`, or leave meta.feast out."
        )
    contract = (node.get("config") or {}).get("contract") or node.get("contract") or {}
    if not contract.get("enforced"):
        raise ManifestError(
            f"{where} has no enforced contract, so its types are not certain. "
            "Add `config: {contract: {enforced: true}}`, then: cd dbt_project && dbt build"
        )
    grain = {"user_id", "as_of", "known_at"}
    if grain not in tested:
        raise ManifestError(
            f"{where} has no grain test, so a user could get two rows for one as_of. Add "
            "`data_tests: [grain: {arguments: {columns: [user_id, as_of, known_at]}}]`, then: "
            "cd dbt_project && dbt build"
        )
    types = {
        column["name"]: _plain_type(column.get("data_type")) for column in node["columns"].values()
    }
    for column, wanted in KEY_COLUMNS.items():
        if types.get(column) != wanted:
            raise ManifestError(
                f"{where}: column {column} is {types.get(column) or 'missing'}, must be {wanted}. "
                "Correct it in the model's YAML, then: cd dbt_project && dbt build"
            )
    owner = feast.get("owner") or _meta(node).get("owner") or ""
    return FeatureTable(
        name=name,
        unique_id=node["unique_id"],
        description=_text(node.get("description")),
        owner=str(owner),
        tags={
            **{str(tag): "true" for tag in node.get("tags") or []},
            **{str(key): str(value) for key, value in (feast.get("tags") or {}).items()},
            "dbt_model": node["unique_id"],
        },
        ttl_days=float(feast.get("ttl_days") or 0),
        columns=tuple(
            _column(column, where)
            for column in node["columns"].values()
            if column["name"] not in KEY_COLUMNS
        ),
    )


def _column(column: Mapping[str, Any], where: str) -> Column:
    name, kind = column["name"], _plain_type(column.get("data_type"))
    if name in RESERVED:
        raise ManifestError(f"{where}: column {name} has a name the online store uses. Rename it.")
    if kind not in EXACT_TYPES:
        raise ManifestError(
            f"{where}: column {name} is {column.get('data_type') or 'of no type'}, which has no "
            f"exact Feast equivalent. Cast it at the end of the model to one of "
            f"{', '.join(EXACT_TYPES)} and say so in its YAML, then: cd dbt_project && dbt build"
        )
    return Column(name, kind, _text(column.get("description")), str(_meta(column).get("unit", "")))


def _plain_type(data_type: str | None) -> str:
    plain = " ".join((data_type or "").lower().split())
    return ALIASES.get(plain, plain)


def _text(description: str | None) -> str:
    return " ".join((description or "").split())


def _service(exposure: Mapping[str, Any], tables: Mapping[str, FeatureTable]) -> Service:
    chosen = _meta(exposure)["feast"].get("features") or {}
    views = [tables[ref] for ref in exposure["depends_on"]["nodes"] if ref in tables]
    where = f"exposure {exposure['name']} ({exposure.get('original_file_path', 'dbt_project')})"
    known = {view.name: {column.name for column in view.columns} for view in views}
    for view, features in chosen.items():
        missing = [view] if view not in known else sorted(set(features) - known[view])
        if missing:
            raise ManifestError(
                f"{where}: meta.feast.features names {missing[0]}, which is not "
                + (f"a column of {view}" if view in known else "a feature view it depends on")
                + ". Correct the exposure, then: cd dbt_project && dbt build"
            )
    if not views:
        raise ManifestError(f"{where} depends on no feature view. Add a ref() to depends_on.")
    owner = exposure.get("owner") or {}
    return Service(
        name=exposure["name"],
        description=_text(exposure.get("description")),
        owner=str(owner.get("email") or owner.get("name") or ""),
        tags={"dbt_exposure": exposure["unique_id"]},
        features={
            view.name: tuple(chosen[view.name]) if view.name in chosen else None for view in views
        },
    )
