"""The entity frame: what a caller wants features for, checked and as Arrow columns.

A frame has the join key column(s), an instant a row, and any other columns, which come back as
they are. Instants with a zone are converted to UTC; naive ones and plain dates are taken as UTC
(a date is its midnight). What is finer than a microsecond is cut off, never rounded up: a value
that became known a nanosecond later must not be seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from feast.errors import InvalidEntityType
from psycopg import sql

from streamflow_feast.offline import arrow_copy

INSTANT = "event_timestamp"
UTC = pa.timestamp("us", "UTC")


class EntityFrameError(ValueError):
    """The entity frame cannot be used; the text names the column, the cause and the remedy."""


def from_pandas(frame: pd.DataFrame) -> pa.Table:
    """The frame's columns as Arrow, its index left out.

    Raises:
        EntityFrameError: a column name repeats or is no string, or a column mixes types.
    """
    if not isinstance(frame, pd.DataFrame):
        raise InvalidEntityType(type(frame))
    names = list(frame.columns)
    for name in names:
        if not isinstance(name, str):
            raise EntityFrameError(f"entity frame: column name {name!r} is no string")
        if names.count(name) > 1:
            raise EntityFrameError(f"entity frame: there are several columns named {name}")
    columns = {}
    for name in names:
        try:
            columns[name] = pa.Array.from_pandas(frame[name])
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            # An object column: dates and texts and zones may stand side by side in it.
            columns[name] = _instants(name, frame[name]) if name == INSTANT else None
        if columns[name] is None:
            kinds = sorted({type(value).__name__ for value in frame[name].dropna()})
            raise EntityFrameError(
                f"entity frame: column {name} mixes {' and '.join(kinds)}; give it one type"
            )
    return pa.table(columns)


def from_query(connection: psycopg.Connection, query: str) -> pa.Table:
    """Result of an entity query: one SELECT, run in a read-only transaction.

    Postgres itself refuses a second statement (extended protocol) and any write.

    Raises:
        EntityFrameError: the query fails, writes, or is more than one statement.
    """
    text = query.strip().removesuffix(";")
    # The line feeds end a comment that the query may end with.
    wrapped = sql.SQL("select * from (\n{}\n) as entity_query").format(sql.SQL(text))
    connection.rollback()
    connection.read_only = True
    try:
        described = connection.execute(wrapped + sql.SQL(" limit 0"), binary=True)
        columns = described.description or []
        types = connection.execute(
            "select format_type(of, modifier) from unnest(%s::oid[], %s::int[])"
            " with ordinality as described (of, modifier, place) order by place",
            [[column.type_code for column in columns], _modifiers(described)],
        ).fetchall()
        schema = pa.schema(
            [
                (column.name, arrow_copy.arrow_type(column.name, kind))
                for column, (kind,) in zip(columns, types, strict=True)
            ]
        )
        if len(set(schema.names)) < len(schema.names):
            raise EntityFrameError("entity query: two columns have the same name")
        return arrow_copy.read(connection, wrapped, schema)
    except psycopg.Error as error:
        raise EntityFrameError(
            f"entity query: {error.diag.message_primary or error}. It must be one SELECT that "
            "changes nothing"
        ) from error
    except TypeError as error:
        raise EntityFrameError(f"entity query: {error}") from error
    finally:
        connection.rollback()
        connection.read_only = False


def _modifiers(described: psycopg.Cursor) -> list[int]:
    """The typmod of each column, which psycopg's own description gives only in parts."""
    result = described.pgresult
    return [result.fmod(i) for i in range(result.nfields)] if result else []


def instant_column(frame: pa.Table) -> str:
    """Name of the column that holds the instants: `event_timestamp`, or the only timestamp.

    Raises:
        EntityFrameError: there is none, or there are several.
    """
    if INSTANT in frame.column_names:
        return INSTANT
    timestamps = [field.name for field in frame.schema if pa.types.is_timestamp(field.type)]
    if len(timestamps) == 1:
        return timestamps[0]
    found = f"timestamps: {', '.join(timestamps)}" if timestamps else "no timestamp column"
    raise EntityFrameError(
        f"entity frame: no column {INSTANT} ({found}; columns: {', '.join(frame.column_names)})"
    )


def checked(frame: pa.Table, instants: str, keys: Mapping[str, str]) -> pa.Table:
    """The frame with its instants in UTC and its keys as their types say.

    Raises:
        EntityFrameError: a key column is missing or of another type, or a key or an instant is
            null.
    """
    columns = {name: frame.column(name) for name in frame.column_names}
    columns[instants] = _instants(instants, columns[instants])
    for key, kind in keys.items():
        if key not in columns:
            raise EntityFrameError(f"entity frame: no column {key} (columns: {', '.join(columns)})")
        columns[key] = KEYS[kind](key, columns[key])
    for name in (instants, *keys):
        if count := columns[name].null_count:
            row = pc.index(pc.is_null(columns[name]), True).as_py()
            raise EntityFrameError(
                f"entity frame: column {name} is null in {count} of {len(frame)} rows, first in "
                f"row {row}; drop or fill them"
            )
    return pa.table(columns)


def _text_key(key: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The ids of an entity whose key is text."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if isinstance(values.type, pa.UuidType):
        values = pa.chunked_array([[v and str(v) for v in values.to_pylist()]], pa.string())
    if not len(values):
        return values
    if not _is_text(values.type):
        raise EntityFrameError(_no_text(key, values))
    row = pc.index(pc.match_substring(values, "\0"), True).as_py()
    if row >= 0:
        raise EntityFrameError(
            f"entity frame: column {key} has a NUL character in row {row} "
            f"({values[row].as_py()!r}), which no id can have; drop or correct it"
        )
    return values


def _integer_key(key: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The ids of an entity whose key is bigint."""
    if not pa.types.is_integer(values.type) and not pa.types.is_null(values.type) and len(values):
        raise EntityFrameError(
            f"entity frame: column {key} holds {_shown(values)}; ids are integers: "
            f".astype('Int64'), or in SQL {key}::bigint"
        )
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise EntityFrameError(
            f"entity frame: column {key} has an id that is no bigint ({error})"
        ) from None


def _uuid_key(key: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The ids of an entity whose key is uuid, as canonical text."""
    if not len(values) or pa.types.is_null(values.type):
        return values.cast(pa.string())
    if not (isinstance(values.type, pa.UuidType) or _is_text(values.type)):
        raise EntityFrameError(
            f"entity frame: column {key} holds {_shown(values)}; ids are uuids or their text"
        )
    found = []
    for row, value in enumerate(values.to_pylist()):
        try:
            found.append(None if value is None else str(UUID(str(value))))
        except ValueError:
            raise EntityFrameError(
                f"entity frame: column {key} has no uuid in row {row} ({value!r})"
            ) from None
    return pa.chunked_array([found], pa.string())


KEYS = {"text": _text_key, "bigint": _integer_key, "uuid": _uuid_key}


def _no_text(key: str, values: pa.ChunkedArray) -> str:
    """What is wrong with a column of a text key that holds something else.

    Nothing is cast here: 7 could be the user "7" or "007", and only the caller can know.
    """
    remedy = f"ids are text: .astype(str), or in SQL {key}::text"
    if pa.types.is_integer(values.type):
        remedy += "; for ids with leading zeros .astype(str).str.zfill(width), as 7 is not '007'"
    elif pa.types.is_floating(values.type):
        remedy = "ids are text; integers beside nulls: .astype('Int64').astype(str)"
    return f"entity frame: column {key} holds {_shown(values)}; {remedy}"


def _shown(values: pa.ChunkedArray) -> str:
    """A column's type and its first values."""
    present = pc.indices_nonzero(pc.is_valid(values)).to_pylist()
    shown = ", ".join(f"row {row}: {values[row].as_py()!r}" for row in present[:3])
    more = f" and {len(present) - 3:,} more rows" if len(present) > 3 else ""
    return f"{values.type} ({shown}{more})"


def _instants(name: str, values: pd.Series | pa.ChunkedArray) -> pa.ChunkedArray:
    """A column's instants as UTC microseconds, cut off."""
    try:
        if isinstance(values, pd.Series) or _is_text(values.type):
            parsed = pd.to_datetime(pd.Series(values), utc=True, format="ISO8601")
            values = pa.chunked_array([pa.Array.from_pandas(parsed)])
        if pa.types.is_null(values.type) or pa.types.is_date(values.type):
            return values.cast(pa.timestamp("us")).cast(UTC)
        if not pa.types.is_timestamp(values.type):
            raise ValueError(f"it holds {values.type}")
        if values.type.unit == "ns":
            cut = pc.floor_temporal(values, unit="microsecond")
            values = cut.cast(pa.timestamp("us", values.type.tz))
        # Without a zone: taken as UTC. With one: the same instant, only shown in UTC.
        return values.cast(UTC)
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise EntityFrameError(
            f"entity frame: column {name} is not made of instants ({error}); "
            "give timestamps, dates or ISO 8601 text"
        ) from error


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
