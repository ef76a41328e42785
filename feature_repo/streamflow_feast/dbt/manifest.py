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
from streamflow_feast.dbt.types import EXACT_TYPES, KEY_TYPES, is_exact, plain_type

VERSION_COLUMNS = {
    "as_of": "timestamp with time zone",
    "known_at": "timestamp with time zone",
    "is_retracted": "boolean",
}
# The online tables add these; neither a key nor a feature can have their names.
RESERVED = {*VERSION_COLUMNS, "published_at", "pushed_at"}


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
class EntityModel:
    """What features are about: a dbt model with `meta.entity`; `keys` are join key -> type."""

    name: str
    description: str
    keys: Mapping[str, str]


@dataclass(frozen=True)
class FeatureTable:
    """A dbt model that is a feature view. `ttl_days` 0 means that values do not expire; `push`
    that it takes pushed rows between two publications."""

    name: str
    entity: EntityModel
    unique_id: str
    description: str
    owner: str
    tags: Mapping[str, str]
    ttl_days: float
    push: bool
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Service:
    """A feature service: feature table -> the names of its features, or None for all of them, and
    the names of the on-demand feature views that it contains."""

    name: str
    description: str
    owner: str
    tags: Mapping[str, str]
    features: Mapping[str, tuple[str, ...] | None]
    on_demand: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """What Feast takes from dbt; `adapter` is dbt's adapter_type, for example postgres."""

    adapter: str
    entities: tuple[EntityModel, ...]
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
    entities = _entities(content)
    grains = _tested_columns(content)
    tables = tuple(
        _feature_table(node, entities, grains.get(node["unique_id"], []))
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
    return Manifest(content["metadata"]["adapter_type"], tuple(entities.values()), tables, services)


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
        if now[name].entity.keys != table.entity.keys:
            notes.append(f"{name} is defined by {', '.join(now[name].entity.keys)}")
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
    entities = {entity.name: entity for entity in defined.entities}
    entities |= {table.entity.name: table.entity for table in tables}
    return Manifest(defined.adapter, tuple(entities.values()), tuple(tables), services), notes


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


def _entities(content: Mapping[str, Any]) -> dict[str, EntityModel]:
    """The entities by name. A manifest of a release that had one entity names none."""
    found: dict[str, EntityModel] = {}
    types: dict[str, tuple[str, str]] = {}  # join key -> (type, entity that says so)
    for node in sorted(content["nodes"].values(), key=lambda node: node["name"]):
        if node["resource_type"] != "model" or "entity" not in _meta(node):
            continue
        entity = _entity(node)
        where = f"model {node['name']} ({node.get('original_file_path', 'dbt_project')})"
        for other in found.values():
            if other.name == entity.name or set(other.keys) == set(entity.keys):
                raise ManifestError(
                    f"{where}: the entity {entity.name} has the name or the join keys of another, "
                    f"{other.name}. Leave one of the two out."
                )
        for key, kind in entity.keys.items():
            before, first = types.setdefault(key, (kind, entity.name))
            if before != kind:
                raise ManifestError(
                    f"{where}: the join key {key} is {kind}, and {before} in the entity {first}. "
                    "A frame with both has one column of that name: give them one type, or rename"
                )
        found[entity.name] = entity
    return found or {"user": EntityModel("user", "", {"user_id": "text"})}


def _entity(node: Mapping[str, Any]) -> EntityModel:
    declared = _meta(node)["entity"]
    where = f"model {node['name']} ({node.get('original_file_path', 'dbt_project')})"
    form = "config: {meta: {entity: {name: device, join_keys: {device_id: text}}}}"
    keys = declared.get("join_keys") if isinstance(declared, Mapping) else None
    if not keys or not isinstance(keys, Mapping) or not declared.get("name"):
        raise ManifestError(
            f"{where}: meta.entity is {declared!r}; it has a name and join_keys: `{form}`"
        )
    plain = {key: plain_type(kind) for key, kind in keys.items()}
    for key, kind in plain.items():
        if kind not in KEY_TYPES or key in RESERVED:
            what = f"has the type {keys[key]!r}" if kind not in KEY_TYPES else "is a reserved name"
            raise ManifestError(
                f"{where}: the join key {key} {what}. Join keys are {', '.join(KEY_TYPES)}, with "
                f"names other than {', '.join(sorted(RESERVED))}"
            )
    return EntityModel(str(declared["name"]), _text(node.get("description")), plain)


def _feature_table(
    node: Mapping[str, Any], entities: Mapping[str, EntityModel], tested: list[set[str]]
) -> FeatureTable:
    name, feast = node["name"], _meta(node)["feast"]
    where = f"model {name} ({node.get('original_file_path', 'dbt_project')})"
    entity = entities.get(feast.get("entity"))
    if entity is None:
        raise ManifestError(
            f"{where}: meta.feast.entity is {feast.get('entity')!r}; there are the entities "
            f"{', '.join(entities)}. Name one of them, or add a model spine_<entity> with "
            "`config: {meta: {entity: {name: ..., join_keys: {...}}}}`"
        )
    contract = (node.get("config") or {}).get("contract") or node.get("contract") or {}
    if not contract.get("enforced"):
        raise ManifestError(
            f"{where} has no enforced contract, so its types are not certain. "
            "Add `config: {contract: {enforced: true}}`, then: cd dbt_project && dbt build"
        )
    grain = [*entity.keys, "as_of", "known_at"]
    if set(grain) not in tested:
        raise ManifestError(
            f"{where} has no grain test, so a {entity.name} could get two rows for one as_of. Add "
            f"`data_tests: [grain: {{arguments: {{columns: [{', '.join(grain)}]}}}}]`, then: "
            "cd dbt_project && dbt build"
        )
    key_columns = {**entity.keys, **VERSION_COLUMNS}
    types = {
        column["name"]: plain_type(column.get("data_type")) for column in node["columns"].values()
    }
    for column, wanted in key_columns.items():
        if types.get(column) != wanted:
            raise ManifestError(
                f"{where}: column {column} is {types.get(column) or 'missing'}, must be {wanted}. "
                "Correct it in the model's YAML, then: cd dbt_project && dbt build"
            )
    owner = feast.get("owner") or _meta(node).get("owner") or ""
    return FeatureTable(
        name=name,
        entity=entity,
        unique_id=node["unique_id"],
        description=_text(node.get("description")),
        owner=str(owner),
        tags={
            **{str(tag): "true" for tag in node.get("tags") or []},
            **{str(key): str(value) for key, value in (feast.get("tags") or {}).items()},
            "dbt_model": node["unique_id"],
            "dbt_entity": entity.name,
        },
        ttl_days=float(feast.get("ttl_days") or 0),
        push=bool(feast.get("push")),
        columns=tuple(
            _column(column, where)
            for column in node["columns"].values()
            if column["name"] not in key_columns
        ),
    )


def _column(column: Mapping[str, Any], where: str) -> Column:
    name, kind = column["name"], plain_type(column.get("data_type"))
    if name in RESERVED:
        raise ManifestError(f"{where}: column {name} has a name the online store uses. Rename it.")
    if not is_exact(kind):
        raise ManifestError(
            f"{where}: column {name} is {column.get('data_type') or 'of no type'}, which has no "
            f"exact Feast equivalent. Cast it at the end of the model to one of "
            f"{', '.join(EXACT_TYPES)} and say so in its YAML, then: cd dbt_project && dbt build"
        )
    return Column(name, kind, _text(column.get("description")), str(_meta(column).get("unit", "")))


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
        on_demand=tuple(_meta(exposure)["feast"].get("on_demand") or ()),
    )
