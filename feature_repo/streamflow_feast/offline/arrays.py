"""Between Postgres's text of an array, {1,2} or {"a b",NULL}, and Arrow's lists."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# An element of a text array: quoted, with backslashes before quotes and backslashes, or as it is.
_ELEMENT = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}"]+)')
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def read(field: pa.Field, texts: pa.ChunkedArray) -> pa.Array:
    """The lists of a column of array texts; a null among the elements stays one.

    Raises:
        TypeError: an array has several dimensions, or does not begin at 1.
    """
    column = pa.concat_arrays(texts.chunks) if texts.num_chunks else pa.array([], pa.string())
    if pc.any(pc.match_substring_regex(column, r"^(\[|\{\{)")).as_py():
        raise TypeError(
            f"column {field.name} has an array of several dimensions, or one that does not begin "
            "at 1, which no list is: array(select unnest(...))"
        )
    if pa.types.is_string(field.type.value_type):
        return pa.array([None if v is None else _texts(v) for v in column.to_pylist()], field.type)
    parts = pc.split_pattern(pc.utf8_trim(column, "{}"), ",")
    empty = pc.fill_null(pc.equal(column, "{}"), True).to_numpy(zero_copy_only=False)
    lengths = pc.fill_null(pc.list_value_length(parts), 0).to_numpy(zero_copy_only=False).copy()
    lengths[empty] = 0
    values = parts.flatten()
    values = values.filter(pc.not_equal(values, ""))  # {} was split into one of them
    values = pc.if_else(pc.equal(values, "NULL"), pa.scalar(None, pa.string()), values)
    if pa.types.is_boolean(field.type.value_type):
        values = pc.equal(values, "t")
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    lists = pa.ListArray.from_arrays(
        offsets, values.cast(field.type.value_type), mask=pc.is_null(column)
    )
    return lists.cast(field.type)


def _texts(array: str) -> list[str | None]:
    return [
        (None if plain == "NULL" else plain) if plain else _ESCAPED.sub(r"\1", quoted)
        for quoted, plain in _ELEMENT.findall(array)
    ]


def write(values: list[Any] | None) -> str | None:
    """Postgres's text of a list."""
    return None if values is None else "{" + ",".join(map(_element, values)) + "}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)
