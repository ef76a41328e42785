"""What a contract's type is in Feast and in its protobuf values: exact both ways, or an error.

Python values here are those that psycopg gives: Decimal, date, datetime in UTC, UUID, lists; only
jsonb is Postgres's own text of it (`JsonText`), as a parsed one would lose digits of its numbers.

Feast's instants are whole seconds, UnixTimestamp as well as ZonedTimestamp: what is finer is cut
off (dbt/types.CUT). Its lists know no null: `rule` says which values have an equivalent, and the
online tables check it. See docs/decisions/0110-types.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import feast.types as feast_types
from feast.protos.feast.types import Value_pb2
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, FeastType
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.pq import Format

from streamflow_feast.dbt.types import without_digits

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
SECOND = timedelta(seconds=1)


class InexactError(ValueError):
    """A value that its Feast type cannot hold; says which and what to do in the model."""


@dataclass(frozen=True)
class Kind:
    """`field` of Feast's Value, and how a value comes into it and out; `check` is SQL that is true
    of the values that can, `rule` says so."""

    feast: FeastType
    field: str
    into: Callable[[Any], Any] = lambda value: value
    out_of: Callable[[Any], Any] = lambda value: value
    check: str = ""
    rule: str = ""


def _seconds(instant: datetime) -> int:
    return (instant - EPOCH) // SECOND


def _date_seconds(day: date) -> int:
    return (datetime(day.year, day.month, day.day, tzinfo=timezone.utc) - EPOCH) // SECOND


def _instant(seconds: int) -> datetime:
    return EPOCH + seconds * SECOND


def _list(message: Any) -> Callable[[Any], Any]:
    def into(values: Any) -> Any:
        if any(value is None or isinstance(value, list) for value in values):
            raise InexactError(f"{values!r}: {LISTS}")
        return message(val=values)

    return into


LISTS = (
    "Feast's lists have one dimension and no null: array_remove(..., null) at the end of the model"
)
FINITE = "Feast has no infinite date or instant: nullif(..., 'infinity') at the end of the model"
NUMBERS = "no decimal holds NaN: nullif(..., 'NaN') at the end of the model"


def _array(element: FeastType, field: str, message: Any) -> Kind:
    return Kind(
        Array(element),
        field,
        _list(message),
        lambda value: list(value.val),
        "coalesce(array_ndims({0}), 1) = 1 and array_position({0}, null) is null",
        LISTS,
    )


# By the name that Postgres gives the type, without the digits of a numeric.
KINDS: dict[str, Kind] = {
    "bigint": Kind(feast_types.Int64, "int64_val"),
    "integer": Kind(feast_types.Int32, "int32_val"),
    "double precision": Kind(feast_types.Float64, "double_val"),
    "real": Kind(feast_types.Float32, "float_val"),
    "boolean": Kind(feast_types.Bool, "bool_val"),
    "text": Kind(feast_types.String, "string_val"),
    "bytea": Kind(feast_types.Bytes, "bytes_val"),
    "numeric": Kind(
        feast_types.Decimal,
        "decimal_val",
        lambda value: format(value, "f"),
        Decimal,
        "{0} <> 'NaN'",
        NUMBERS,
    ),
    "timestamp with time zone": Kind(
        feast_types.UnixTimestamp,
        "unix_timestamp_val",
        _seconds,
        _instant,
        "isfinite({0})",
        FINITE,
    ),
    "date": Kind(
        feast_types.UnixTimestamp,
        "unix_timestamp_val",
        _date_seconds,
        lambda seconds: _instant(seconds).date(),
        "isfinite({0})",
        FINITE,
    ),
    "uuid": Kind(feast_types.Uuid, "uuid_val", str, UUID),
    "jsonb": Kind(feast_types.Json, "json_val"),
    "text[]": _array(feast_types.String, "string_list_val", Value_pb2.StringList),
    "bigint[]": _array(feast_types.Int64, "int64_list_val", Value_pb2.Int64List),
    "double precision[]": _array(feast_types.Float64, "double_list_val", Value_pb2.DoubleList),
    "boolean[]": _array(feast_types.Bool, "bool_list_val", Value_pb2.BoolList),
}
# Where Feast's type says less than the contract's, a field says the latter in this tag.
TYPE_TAG = "postgres_type"
# Feast's type -> the contract's, for a field without that tag (the first of two: timestamptz).
BY_FEAST_TYPE: dict[FeastType, str] = {}
for _name, _kind in KINDS.items():
    BY_FEAST_TYPE.setdefault(_kind.feast, _name)


def kind_of(postgres_type: str) -> Kind:
    """The kind of a contract type, such as numeric(12,2)."""
    return KINDS[without_digits(postgres_type)]


def to_value(postgres_type: str, value: Any) -> Value:
    """Feast's protobuf value of a Python value; None is an unset one. Raises InexactError."""
    if value is None:
        return Value()
    kind = kind_of(postgres_type)
    return Value(**{kind.field: kind.into(value)})


def from_value(postgres_type: str, value: Value) -> Any:
    """The Python value; None for null."""
    kind = kind_of(postgres_type)
    field = value.WhichOneof("val")
    return None if field != kind.field else kind.out_of(getattr(value, field))


class JsonText(Loader):
    """Loads jsonb as text: in text form the text itself, else behind one byte of version."""

    def load(self, data: Buffer) -> str:
        return bytes(data).decode()


class JsonBinary(JsonText):
    format = Format.BINARY

    def load(self, data: Buffer) -> str:
        return bytes(data)[1:].decode()


def register_json(adapters: Any) -> None:
    """Have a connection's or cursor's `adapters` give jsonb as text."""
    adapters.register_loader("jsonb", JsonText)
    adapters.register_loader("jsonb", JsonBinary)
