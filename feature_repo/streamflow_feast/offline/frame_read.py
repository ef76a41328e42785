"""Reads the features of an entity frame, on several connections that see one snapshot.

Each view is either looked up, row by row in the database (`point_in_time`), or read as a whole and
joined here (`sweep`), whichever takes less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from feast.feature_view import FeatureView
from psycopg import sql

from streamflow_feast.offline import arrow_copy, point_in_time, sweep
from streamflow_feast.offline.entity_frame import UTC, EntityFrameError
from streamflow_feast.offline.point_in_time import Bounds, View

ROWS_A_CONNECTION = 20_000  # fewer are not worth another connection


class Store(Protocol):
    """Of the offline store's settings, what is used here."""

    connections: int

    def connect(self) -> psycopg.Connection: ...


@dataclass(frozen=True)
class Request:
    """The checked frame, the name of its instants, its join keys with their types, and the views
    whose features it asks for."""

    frame: pa.Table
    instants: str
    keys: dict[str, str]
    views: Sequence[View]
    bounds: Bounds


def view_of(
    context: Any, table: str, types: dict[str, str], view: FeatureView, full_names: bool
) -> View:
    """What is wanted from `table` (schema.name, with these types), of Feast's context of a view."""
    schema, _, name = table.partition(".")
    prefix = f"{context.name}__" if full_names else ""
    return View(
        name=context.name,
        schema=schema,
        table=name,
        keys=dict(selection.split(" AS ") for selection in context.entity_selections),
        features={
            column: prefix + context.field_mapping.get(column, column)
            for column in context.features
        },
        timestamp=context.timestamp_field,
        created=context.created_timestamp_column,
        ttl=view.ttl or timedelta(0),
        types=types,
    )


def refuse_clashes(columns: Iterable[str], views: Sequence[View]) -> None:
    """Raises EntityFrameError: a column of the frame has the name of a feature."""
    there = set(columns)
    for view in views:
        for name in view.features.values():
            if name in there:
                raise EntityFrameError(
                    f"entity frame: column {name} has the name of a feature of {view.name}; "
                    "rename it, or ask for full_feature_names=True"
                )


def feature_fields(view: View) -> list[pa.Field]:
    """The features of a view as columns of the result."""
    return [
        pa.field(name, arrow_copy.arrow_type(f"{view.table}.{column}", view.types[column]))
        for column, name in view.features.items()
    ]


def read(store: Store, request: Request, timeout: int | None = None) -> pa.Table:
    """The frame, and beside it the features of every view in the order of the views.

    timeout: seconds that a statement may take.
    """
    count = min(store.connections, 1 + len(request.frame) // ROWS_A_CONNECTION)
    with ExitStack() as stack:
        connections = [stack.enter_context(store.connect()) for _ in range(count)]
        _share_snapshot(connections)
        for connection in connections:
            limit(connection, timeout)
        pool = stack.enter_context(ThreadPoolExecutor(count))

        def on_each(work: Callable[[psycopg.Connection, Any], Any], parts: Iterable[Any]) -> list:
            running = [pool.submit(work, *pair) for pair in zip(connections, parts, strict=True)]
            try:
                return [part.result() for part in running]
            except BaseException:
                for connection in connections:
                    connection.cancel_safe()
                raise

        columns: dict[str, pa.ChunkedArray] = {}
        swept = _swept(connections[0], request)
        if swept:
            # Each takes the next view as soon as it is done with one; the widest first.
            pending = iter(sorted(swept, key=lambda view: -len(view.features)))
            for found in on_each(_sweeps(swept, request), [pending] * count):
                columns |= found
        if looked_up := [view for view in request.views if view not in swept]:
            parts = on_each(_look_ups(looked_up, request), _shares(request, count))
            columns |= in_order(pa.concat_tables(parts))
    table = request.frame
    for view in request.views:
        for field in feature_fields(view):
            column = columns.pop(field.name)
            table = table.append_column(field.with_type(column.type), column)
    return table


def limit(connection: psycopg.Connection, timeout: int | None) -> None:
    """How long a statement of this transaction may take, in seconds."""
    if timeout is not None:
        length = sql.Literal(int(timeout * 1000))
        connection.execute(sql.SQL("set local statement_timeout = {}").format(length))


def _share_snapshot(connections: list[psycopg.Connection]) -> None:
    """All of them see the database as the first one does."""
    if len(connections) == 1:
        return
    for connection in connections:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    first, *others = connections
    (snapshot,) = first.execute("select pg_export_snapshot()").fetchone() or ("",)
    for connection in others:
        connection.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot)))


def _shares(request: Request, count: int) -> Iterator[pa.Table]:
    """The frame's row numbers, instants and keys, in `count` parts."""
    frame = request.frame
    rows = pa.table(
        [
            pa.array(np.arange(len(frame))),
            *(frame.column(name) for name in (request.instants, *request.keys)),
        ],
        names=point_in_time.key_columns(list(request.keys)),
    )
    share = -(-len(rows) // count)
    return (rows.slice(n * share, share) for n in range(count))


def _look_ups(
    views: Sequence[View], request: Request
) -> Callable[[psycopg.Connection, pa.Table], pa.Table]:
    """Reads (row number, features of the views) of some rows of the frame."""
    query = point_in_time.join(views, request.bounds)
    schema = pa.schema(
        [(point_in_time.ROW, pa.int64()), *(f for view in views for f in feature_fields(view))]
    )

    def look_up(connection: psycopg.Connection, rows: pa.Table) -> pa.Table:
        # One look-up a row by the primary key is the plan, whatever the statistics say.
        for setting in ("enable_seqscan", "enable_bitmapscan", "enable_memoize", "jit"):
            connection.execute(sql.SQL("set local {} = off").format(sql.SQL(setting)))
        # On this connection only, dropped with the transaction: it cannot be left behind.
        connection.execute(point_in_time.create_frame(list(request.keys.values())))
        arrow_copy.write(connection, rows, point_in_time.FRAME, rows.column_names)
        return arrow_copy.read(connection, query, schema)

    return look_up


def in_order(found: pa.Table) -> dict[str, pa.ChunkedArray]:
    """The columns after the first, which says for which row of the frame each of its rows is."""
    numbers = found.column(0).to_numpy()
    places = np.empty_like(numbers)
    places[numbers] = np.arange(len(numbers))
    in_order = bool((np.diff(numbers) > 0).all())
    columns = {}
    for name in found.column_names[1:]:
        column = found.column(name)
        columns[name] = column if in_order else column.combine_chunks().take(pa.array(places))
        found = found.drop_columns([name])  # or both copies would be held to the end
    return columns


def _swept(connection: psycopg.Connection, request: Request) -> list[View]:
    """The views that are read as a whole."""
    sizes = connection.execute(
        "select pg_table_size(to_regclass(format('%%I.%%I', %s::text, name)))"
        " from unnest(%s::text[]) with ordinality as asked (name, place) order by place",
        [point_in_time.HISTORY, [view.table for view in request.views]],
    ).fetchall()
    return [
        view
        for view, (size,) in zip(request.views, sizes, strict=True)
        if size is not None and sweep.pays(view, request.bounds, len(request.frame), size)
    ]


def _sweeps(
    views: Sequence[View], request: Request
) -> Callable[[psycopg.Connection, Iterator[View]], dict[str, pa.ChunkedArray]]:
    """Reads the features of every row of the frame, of one view after the other."""
    instants = request.frame.column(request.instants)
    extent = pc.min_max(instants).as_py()
    frames = {
        keys: sweep.Frame([request.frame.column(key) for key in keys], instants)
        for keys in {tuple(view.keys.values()) for view in views}
    }

    def read_through(
        connection: psycopg.Connection, pending: Iterator[View]
    ) -> dict[str, pa.ChunkedArray]:
        columns = {}
        for view in pending:
            query = point_in_time.versions(view, request.bounds, extent["min"], extent["max"])
            fields = feature_fields(view)
            versions = arrow_copy.read(connection, query, _version_schema(view, fields))
            rows = sweep.newest(view, frames[tuple(view.keys.values())], versions)
            for place, field in enumerate(fields, start=len(view.keys) + 3):
                columns[field.name] = versions.column(place).take(rows)
            del versions, rows
            pa.default_memory_pool().release_unused()  # a view is large, and so is the next one
        return columns

    return read_through


def _version_schema(view: View, features: Sequence[pa.Field]) -> pa.Schema:
    """Of what `point_in_time.versions` asks for. Numbers are no feature's name."""
    keys = [arrow_copy.arrow_type(column, view.types[column]) for column in view.keys]
    own = [*keys, UTC, UTC, pa.bool_()]
    return pa.schema([*((str(i), kind) for i, kind in enumerate(own)), *features])
