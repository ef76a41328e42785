"""Feast's feature views as the database sees them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from feast import FeatureView, Field
from feast.protos.feast.types.EntityKey_pb2 import EntityKey

from streamflow_feast.dbt.manifest import Column
from streamflow_feast.dbt.types import KEY_TYPES
from streamflow_feast.kinds import BY_FEAST_TYPE, TYPE_TAG, kind_of, to_value
from streamflow_feast.tables import View


class UnsupportedViewError(ValueError):
    """A feature view that this online store and engine cannot take; says why."""


def field_of(name: str, postgres_type: str, description: str, tags: dict[str, str]) -> Field:
    """A Feast field of a contract type, which `type_of` gives back."""
    dtype = kind_of(postgres_type).feast
    if BY_FEAST_TYPE[dtype] != postgres_type:
        tags = {**tags, TYPE_TAG: postgres_type}
    return Field(name=name, dtype=dtype, description=description, tags=tags)


def feature_field(column: Column) -> Field:
    """A feature's field."""
    tags = {"unit": column.unit} if column.unit else {}
    return field_of(column.name, column.type, column.description, tags)


def key_field(name: str, postgres_type: str, description: str) -> Field:
    """A join key's field. Feast 0.67 cannot serialize a uuid as an entity key, for Redis and for
    its own remote store; its text it can."""
    if postgres_type != "uuid":
        return field_of(name, postgres_type, description, {})
    text = field_of(name, "text", description, {})
    text.tags = {TYPE_TAG: postgres_type}
    return text


def entity_key(keys: Mapping[str, str], values: Iterable[Any]) -> EntityKey:
    """Feast's entity key, of join key -> contract type and their values; a uuid is its text."""
    return EntityKey(
        join_keys=list(keys),
        entity_values=[
            to_value("text" if kind == "uuid" else kind, str(value) if kind == "uuid" else value)
            for kind, value in zip(keys.values(), values, strict=True)
        ],
    )


def type_of(field: Field) -> str | None:
    """The contract type of a field; None where it has none."""
    tagged: str | None = field.tags.get(TYPE_TAG)
    return tagged or BY_FEAST_TYPE.get(field.dtype)


def key_types(feature_view: FeatureView) -> dict[str, str]:
    """Join key -> contract type, in the view's order. Raises UnsupportedViewError."""
    # A view from the registry knows its join keys, one built in Python its entities' names.
    keys = {field.name: type_of(field) for field in feature_view.entity_columns}
    for key, kind in keys.items():
        if kind not in KEY_TYPES:
            raise UnsupportedViewError(
                f"feature view {feature_view.name}: the join key {key} is "
                f"{kind or 'of no type that is known here'}; join keys are {', '.join(KEY_TYPES)}"
            )
    if not keys:
        raise UnsupportedViewError(f"feature view {feature_view.name} has no join key")
    return {key: str(kind) for key, kind in keys.items()}


def view_of(feature_view: FeatureView) -> View:
    """Raises UnsupportedViewError: no join key, a query as source, a type that is not exact."""
    name = feature_view.name
    keys = key_types(feature_view)
    source = feature_view.batch_source
    # Feast's Spark source would ask for pyspark, which whoever only serves does not have.
    table = getattr(source, "table", "") or getattr(source, "get_table_query_string", str)()
    if source is None or not table or "(" in table:
        raise UnsupportedViewError(f"feature view {name} has no table as its source, but {table!r}")
    columns = []
    for field in feature_view.features:
        kind = type_of(field)
        if kind is None:
            raise UnsupportedViewError(
                f"feature {name}:{field.name} is {field.dtype}; supported are "
                f"{', '.join(str(feast_type) for feast_type in BY_FEAST_TYPE)}"
            )
        columns.append((field.name, kind))
    return View(name, table, tuple(keys.items()), tuple(columns), feature_view.ttl or None)
