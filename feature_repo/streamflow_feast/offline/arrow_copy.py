"""Between Postgres and Arrow by COPY: whole columns, in bounded blocks, no Python object a cell.

CSV is the form both sides read and write fastest (measured: COPY binary is no faster on the
server, and Arrow has no reader for it). It is exact: Postgres and Arrow both write the shortest
text that reads back to the same double, and both tell an empty string ("") from null ().
"""

from __future__ import annotations

import re
import selectors
from collections.abc import Sequence
from decimal import Decimal

import psycopg
import pyarrow as pa
import pyarrow.csv
from psycopg import sql

from streamflow_feast.dbt.types import MOST_DIGITS, digits
from streamflow_feast.offline import arrays

BLOCK = 1 << 22  # bytes handed to Arrow's reader at a time

# Postgres type, as format_type gives it -> Arrow type; instants keep their zone.
ARROW_TYPES: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "smallint": pa.int32(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "real": pa.float32(),
    "double precision": pa.float64(),
    "text": pa.string(),
    "character varying": pa.string(),
    "character": pa.string(),
    "bytea": pa.binary(),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
    "timestamp without time zone": pa.timestamp("us"),
    "date": pa.date32(),
    "uuid": pa.string(),  # its canonical text, which is all that there is to it
    "jsonb": pa.large_string(),  # Postgres's own text
    "text[]": pa.list_(pa.string()),
    "bigint[]": pa.list_(pa.int64()),
    "double precision[]": pa.list_(pa.float64()),
    "boolean[]": pa.list_(pa.bool_()),
}
# Of a numeric without declared digits; what is read has as many as its values need.
ANY_DECIMAL = pa.decimal256(MOST_DIGITS, MOST_DIGITS // 2)
POSTGRES_TYPES = {
    pa.bool_(): "boolean",
    pa.int8(): "smallint",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float32(): "real",
    pa.float64(): "double precision",
    pa.string(): "text",
    pa.large_string(): "text",
    pa.binary(): "bytea",
    pa.null(): "text",
    pa.date32(): "date",
}


def arrow_type(column: str, postgres_type: str) -> pa.DataType:
    """Arrow type of a Postgres column, by what format_type says of it.

    Raises:
        TypeError: the type has no exact counterpart; names the column and the types that do.
    """
    if postgres_type.startswith("numeric") and not postgres_type.endswith("[]"):
        return _decimal(column, postgres_type)
    try:
        return ARROW_TYPES[re.sub(r"\(\d+\)", "", postgres_type)]
    except KeyError:
        raise TypeError(
            f"column {column} is a {postgres_type}, which a training set cannot hold exactly: "
            f"cast it to one of {', '.join(ARROW_TYPES)}, numeric"
        ) from None


def _decimal(column: str, postgres_type: str) -> pa.DataType:
    """The decimal of numeric(precision, scale)."""
    if postgres_type == "numeric":
        return ANY_DECIMAL
    precision, scale = digits(postgres_type) or (MOST_DIGITS + 1, 0)
    if not 0 <= scale <= precision <= MOST_DIGITS:
        raise TypeError(
            f"column {column} is {postgres_type}, which no decimal of at most {MOST_DIGITS} "
            "digits holds exactly: cast it to a narrower one"
        )
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def postgres_type(column: str, kind: pa.DataType) -> str:
    """Postgres type that holds an Arrow column exactly; TypeError where there is none."""
    if pa.types.is_timestamp(kind):
        return "timestamptz" if kind.tz else "timestamp"
    if pa.types.is_dictionary(kind):
        return postgres_type(column, kind.value_type)
    if pa.types.is_decimal(kind):
        return f"numeric({kind.precision}, {kind.scale})"
    if pa.types.is_list(kind):
        return f"{postgres_type(column, kind.value_type)}[]"
    try:
        return POSTGRES_TYPES[kind]
    except KeyError:
        raise TypeError(f"column {column}: no Postgres type for Arrow's {kind}") from None


class _Rows:
    """What `COPY ... TO STDOUT` sends, as the file object that Arrow's reader wants.

    By libpq's own calls: psycopg's `Copy.read` takes twice as long for a row as the server does.
    """

    closed = False

    def __init__(self, connection: psycopg.Connection, command: sql.Composable) -> None:
        self._connection, self._of = connection, connection.pgconn
        connection.execute("select 1")  # opens the transaction
        answer = self._of.exec_(command.as_bytes(connection))
        if answer.status != psycopg.pq.ExecStatus.COPY_OUT:
            raise psycopg.errors.error_from_result(answer)
        self._ended = False
        self._readable = selectors.DefaultSelector()
        self._readable.register(self._of.socket, selectors.EVENT_READ)
        self._rest = self._row()

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self._readable.close()
        if not self._ended:  # the reader gave up
            self._connection.cancel_safe()
            while self._of.get_copy_data(0)[0] > 0:
                pass
            while self._of.get_result():
                pass

    @property
    def are_none(self) -> bool:
        """Whether there is no row."""
        return self._ended and not self._rest

    def read(self, size: int) -> bytes:
        parts, length = [self._rest], len(self._rest)
        while length < size and (row := self._row()):
            parts.append(row)
            length += len(row)
        block = b"".join(parts)
        self._rest = block[size:]
        return block[:size]

    def _row(self) -> bytes:
        """The next row, nothing after the last. Raises the server's error, if it ends with one."""
        if self._ended:
            return b""
        while not (received := self._of.get_copy_data(1))[0]:
            self._readable.select()
            self._of.consume_input()
        if received[0] > 0:
            return bytes(received[1])
        self._ended = True
        answers = list(iter(self._of.get_result, None))
        if answers[0].status != psycopg.pq.ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(answers[0])
        return b""


class _Sink:
    """`COPY ... FROM STDIN`, as the file object that Arrow's writer wants."""

    closed = False

    def __init__(self, copy: psycopg.Copy) -> None:
        self.write = copy.write

    def flush(self) -> None:
        """Nothing to do: libpq sends as it goes."""


def read(connection: psycopg.Connection, query: sql.Composable, schema: pa.Schema) -> pa.Table:
    """Result of a query whose columns, in order, are those of `schema`.

    The session's TimeZone must be UTC. Memory: the result and a few blocks of 4 MB.
    """
    command = sql.SQL("copy ({}) to stdout (format csv)").format(query)
    with _Rows(connection, command) as rows:
        if rows.are_none:
            return schema.empty_table()
        # What Arrow's reader does not take from a CSV (of decimals, only some).
        texts = [f for f in schema if _is_read_here(f.type)]
        wire = {f.name: pa.string() if f in texts else f.type for f in schema}
        table = pa.csv.read_csv(
            pa.PythonFile(rows, mode="r"),
            read_options=pa.csv.ReadOptions(
                column_names=schema.names, block_size=BLOCK, use_threads=False
            ),
            parse_options=pa.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            convert_options=pa.csv.ConvertOptions(
                column_types=wire,
                null_values=[""],
                true_values=["t"],
                false_values=["f"],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
    for field in texts:
        sent = table.column(field.name)
        if pa.types.is_list(field.type):
            column = arrays.read(field, sent)
        elif pa.types.is_binary(field.type):
            column = _bytes(field, sent.to_pylist())
        else:
            column = _decimals(field, sent.to_pylist())
        table = table.set_column(schema.names.index(field.name), field.name, column)
    return table


def _is_read_here(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_decimal(kind) or pa.types.is_list(kind)


def _bytes(field: pa.Field, texts: list[str | None]) -> pa.Array:
    """Sent as \\x and hexadecimal digits."""
    return pa.array([v and bytes.fromhex(v[2:]) for v in texts], pa.binary())


def _decimals(field: pa.Field, texts: list[str | None]) -> pa.Array:
    values = [v if v is None else Decimal(v) for v in texts]
    if odd := [v for v in values if v is not None and not v.is_finite()]:
        raise TypeError(f"column {field.name} holds {odd[0]}, which no decimal does: leave it out")
    if field.type != ANY_DECIMAL:
        return pa.array(values, field.type)
    if not any(v is not None for v in values):
        return pa.array(values, pa.decimal128(38, 0))
    try:
        return pa.array(values)
    except pa.ArrowInvalid:
        raise TypeError(
            f"column {field.name} needs more than the {MOST_DIGITS} digits of Arrow's widest "
            "decimal: cast it to a narrower numeric, or to text"
        ) from None


def write(
    connection: psycopg.Connection, table: pa.Table, into: sql.Composable, columns: Sequence[str]
) -> None:
    """Append `table` to the Postgres table `into`, whose column names are `columns`, in order."""
    for i, field in enumerate(table.schema):
        if pa.types.is_binary(field.type):
            values = [v if v is None else "\\x" + v.hex() for v in table.column(i).to_pylist()]
            table = table.set_column(i, field.name, pa.array(values, pa.string()))
        elif pa.types.is_list(field.type):
            values = [arrays.write(v) for v in table.column(i).to_pylist()]
            table = table.set_column(i, field.name, pa.array(values, pa.string()))
    command = sql.SQL("copy {} ({}) from stdin (format csv)").format(
        into, sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with connection.cursor().copy(command) as copy:
        pa.csv.write_csv(
            table,
            pa.PythonFile(_Sink(copy), mode="w"),
            pa.csv.WriteOptions(include_header=False, batch_size=1 << 16),
        )
