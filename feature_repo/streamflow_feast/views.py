"""Between Feast's feature views and values and the database's."""

from __future__ import annotations

from typing import Any

from feast import FeatureView
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Bool, Bytes, FeastType, Float32, Float64, Int32, Int64, String

from streamflow_feast.dbt.manifest import JOIN_KEY
from streamflow_feast.tables import View

# Contract type -> Feast type and the field of Feast's protobuf value: exact both ways.
FEAST_TYPES: dict[str, FeastType] = {
    "bigint": Int64,
    "integer": Int32,
    "double precision": Float64,
    "real": Float32,
    "boolean": Bool,
    "text": String,
    "bytea": Bytes,
}
VALUE_FIELDS = {
    "bigint": "int64_val",
    "integer": "int32_val",
    "double precision": "double_val",
    "real": "float_val",
    "boolean": "bool_val",
    "text": "string_val",
    "bytea": "bytes_val",
}
# ... and the name of the type in pg_type.
TYPE_NAMES: dict[FeastType, str] = {
    Int64: "int8",
    Int32: "int4",
    Float64: "float8",
    Float32: "float4",
    Bool: "bool",
    String: "text",
    Bytes: "bytea",
}
POSTGRES_TYPES = {feast_type: name for name, feast_type in FEAST_TYPES.items()}


class UnsupportedViewError(ValueError):
    """A feature view that this online store and engine cannot take; says why."""


def view_of(feature_view: FeatureView) -> View:
    """Raises UnsupportedViewError: another entity, a query as source, a type that is not exact."""
    name = feature_view.name
    # A view from the registry knows its join keys, one built in Python its entities' names.
    keys = [field.name for field in feature_view.entity_columns]
    if keys != [JOIN_KEY]:
        raise UnsupportedViewError(
            f"feature view {name} has the join keys {keys}; only {JOIN_KEY} is supported. "
            "A composite or second entity is out of scope."
        )
    source = feature_view.batch_source
    table = getattr(source, "get_table_query_string", str)()
    if source is None or not table or "(" in table:
        raise UnsupportedViewError(f"feature view {name} has no table as its source, but {table!r}")
    columns = []
    for field in feature_view.features:
        if field.dtype not in POSTGRES_TYPES:
            raise UnsupportedViewError(
                f"feature {name}:{field.name} is {field.dtype}; supported are "
                f"{', '.join(str(kind) for kind in POSTGRES_TYPES)}"
            )
        columns.append((field.name, POSTGRES_TYPES[field.dtype]))
    return View(name, table, tuple(columns), feature_view.ttl or None)


def to_value(kind: str, value: Any) -> Value:
    """Feast's protobuf value of a Python value of Postgres type `kind`; None is an unset value."""
    return Value() if value is None else Value(**{VALUE_FIELDS[kind]: value})


def from_value(value: Value) -> Any:
    """The Python value; None for null."""
    field = value.WhichOneof("val")
    return None if field is None or field == "null_val" else getattr(value, field)
