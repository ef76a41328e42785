"""The types of dbt's contracts that have an exact Feast equivalent, as Postgres itself names them.

What each of them is in Feast: `streamflow_feast/views.py`. Not here on purpose: smallint (Feast has
no 16-bit integer), timestamp without a zone (an instant of which zone?), numeric without digits
(its values are as wide as they like, and Arrow's widest decimal has 76).
"""

from __future__ import annotations

import re

SIMPLE_TYPES = (
    "bigint",
    "integer",
    "double precision",
    "real",
    "boolean",
    "text",
    "bytea",
    "date",
    "timestamp with time zone",
    "uuid",
    "jsonb",
    "text[]",
    "bigint[]",
    "double precision[]",
    "boolean[]",
)
EXACT_TYPES = (*SIMPLE_TYPES, "numeric(p,s)")
KEY_TYPES = ("text", "bigint", "uuid")
MOST_DIGITS = 76  # of Arrow's widest decimal

# What Feast keeps of a value, where that is not all: of an instant its whole seconds. It is cut off
# wherever a feature is read, so that both ends are the same (docs/decisions/0110-types.md).
CUT = {"timestamp with time zone": "date_trunc('second', {0})"}

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
    "decimal": "numeric",
}
_NUMERIC = re.compile(r"numeric\((\d+),(\d+)\)")


def plain_type(data_type: str | None) -> str:
    """Postgres's own name of a type: "int8[]" is "bigint[]", "DECIMAL(12, 2)" "numeric(12,2)"."""
    plain = re.sub(r"\s*([(),])\s*", r"\1", " ".join((data_type or "").lower().split()))
    base, parameters, rest = re.match(r"([^(\[]*)(\([^)]*\))?(.*)", plain).groups()  # type: ignore[union-attr]
    return ALIASES.get(base, base) + (parameters or "") + rest


def without_digits(kind: str) -> str:
    """The type's name alone: numeric of numeric(12,2)."""
    return kind.partition("(")[0]


def digits(kind: str) -> tuple[int, int] | None:
    """(precision, scale) of numeric(precision,scale), None for any other type."""
    found = _NUMERIC.fullmatch(kind)
    return (int(found[1]), int(found[2])) if found else None


def is_exact(kind: str) -> bool:
    """Whether a plain type has an exact Feast equivalent."""
    size = digits(kind)
    return kind in SIMPLE_TYPES or (size is not None and size[1] <= size[0] <= MOST_DIGITS)
