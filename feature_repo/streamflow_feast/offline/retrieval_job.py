"""The result of a point-in-time read: as Arrow, as a data frame, or kept in a table.

Types: Postgres's own, exactly; a null bigint stays a null int64 in Arrow. `to_df` follows Feast
(pandas has no null in int64, so such a column becomes float64), except where float64 would alter
a value: then it is pandas' Int64. `to_df(nullable=True)` has nullable types in any case. Instants
keep their zone, UTC, where stock Feast drops it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from feast import Field
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import (
    PostgreSQLRetrievalJob,
)
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    SavedDatasetPostgreSQLStorage,
)
from feast.infra.offline_stores.offline_store import RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from feast.type_map import feast_value_type_to_python_type
from psycopg import sql

from streamflow_feast import on_demand
from streamflow_feast.kinds import from_value
from streamflow_feast.offline import arrow_copy, entity_frame, point_in_time
from streamflow_feast.views import type_of

ROWS_A_CONNECTION = 20_000  # fewer are not worth another connection
EXACT = 2**53  # float64 holds every integer up to here
# pandas' types that know null beside every value; its float64 has NaN for it.
NULLABLE: dict[pa.DataType, Any] = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.string(): pd.StringDtype(),
    pa.large_string(): pd.StringDtype(),
}


class StreamflowRetrievalJob(PostgreSQLRetrievalJob):
    """Reads features for a checked entity frame (with the name of its instants, and its join keys
    with their types), or of a range."""

    def __init__(
        self,
        config: RepoConfig,
        query: sql.Composed,
        schema: pa.Schema,
        frame: tuple[pa.Table, str, dict[str, str]] | None,
        full_feature_names: bool,
        on_demand_feature_views: list[OnDemandFeatureView] | None = None,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        super().__init__(
            query.as_string(), config, full_feature_names, on_demand_feature_views, metadata
        )
        self._query, self._schema, self._frame = query, schema, frame

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """Those that are left to Feast, in whose pandas mode there is no Python value to keep."""
        return [view for view in self._on_demand_feature_views or [] if view.mode != "python"]

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        table = self._look_all_up(timeout)
        for view in self._on_demand_feature_views or []:
            if view.mode == "python":
                table = self._computed(view, table)
        return table

    def _computed(self, view: OnDemandFeatureView, table: pa.Table) -> pa.Table:
        """The table with the view's features that were asked for."""
        full, asked = self.full_feature_names, set(self.metadata.features if self.metadata else ())

        def request(name: str) -> list[Any]:
            if name not in table.column_names:
                raise entity_frame.EntityFrameError(
                    f"entity frame: no column {name}, which the on-demand view {view.name} needs"
                )
            return list(table.column(name).to_pylist())

        inputs = on_demand.inputs_of(
            view,
            lambda source, name: table.column(f"{source}__{name}" if full else name).to_pylist(),
            request,
        )
        values = on_demand.transform(view, inputs, len(table))
        shown = view.projection.name_to_use()
        for field in view.features:
            if f"{shown}:{field.name}" in asked:
                name = f"{shown}__{field.name}" if full else field.name
                table = table.append_column(name, _column(field, values[field.name]))
        return table

    def _look_all_up(self, timeout: int | None) -> pa.Table:
        store = self.config.offline_store
        if self._frame is None:
            with store.connect() as connection:
                _prepare(connection, timeout)
                return arrow_copy.read(connection, self._query, self._schema)
        frame, instants, keys = self._frame
        rows = pa.table(
            [
                pa.array(np.arange(len(frame))),
                *(frame.column(name) for name in (instants, *keys)),
            ],
            names=point_in_time.key_columns(list(keys)),
        )
        count = min(store.connections, 1 + len(rows) // ROWS_A_CONNECTION)
        share = -(-len(rows) // count)
        with ExitStack() as stack:
            connections = [stack.enter_context(store.connect()) for _ in range(count)]
            _share_snapshot(connections)
            pool = stack.enter_context(ThreadPoolExecutor(count))
            parts = [
                pool.submit(
                    self._look_up,
                    connection,
                    rows.slice(n * share, share),
                    list(keys.values()),
                    timeout,
                )
                for n, connection in enumerate(connections)
            ]
            try:
                found = pa.concat_tables([part.result() for part in parts])
            except BaseException:
                for connection in connections:
                    connection.cancel_safe()
                raise
        return beside(frame, found)

    def _look_up(
        self,
        connection: psycopg.Connection,
        rows: pa.Table,
        key_types: list[str],
        timeout: int | None,
    ) -> pa.Table:
        """The features of some rows of the frame."""
        _prepare(connection, timeout)
        # On this connection only, dropped with the transaction: it cannot be left behind.
        connection.execute(point_in_time.create_frame(key_types))
        arrow_copy.write(connection, rows, point_in_time.FRAME, rows.column_names)
        return arrow_copy.read(connection, self._query, self._schema)

    def to_df(
        self,
        validation_reference: Any = None,
        timeout: int | None = None,
        nullable: bool | None = None,
    ) -> pd.DataFrame:
        """As Feast's, with Int64 for a column of null and large integers, which no float holds.

        With `nullable` (default: `nullable_dtypes` of feature_store.yaml's offline_store) integers,
        booleans and texts have pandas' nullable types throughout: Int64, boolean, string.
        """
        table = self.to_arrow(validation_reference=validation_reference, timeout=timeout)
        if self.config.offline_store.nullable_dtypes if nullable is None else nullable:
            return table.to_pandas(types_mapper=NULLABLE.get).reset_index(drop=True)
        frame = table.to_pandas()
        for name in table.column_names:
            column = table.column(name)
            if pa.types.is_int64(column.type) and column.null_count and _beyond_float(column):
                frame[name] = column.to_pandas(types_mapper=NULLABLE.get)
        return frame.reset_index(drop=True)

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self.to_df(timeout=timeout)

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool | None = False,
        timeout: int | None = None,
    ) -> None:
        """Write the result to a new table, in one transaction.

        Raises:
            ValueError: the table exists and `allow_overwrite` is false.
        """
        assert isinstance(storage, SavedDatasetPostgreSQLStorage)
        name = storage.postgres_options._table
        table = self.to_arrow(timeout=timeout)
        columns = sql.SQL(", ").join(
            sql.SQL("{} {}").format(
                sql.Identifier(field.name),
                sql.SQL(arrow_copy.postgres_type(field.name, field.type)),
            )
            for field in table.schema
        )
        target = sql.Identifier(*name.split("."))
        with self.config.offline_store.connect() as connection:
            if allow_overwrite:
                connection.execute(sql.SQL("drop table if exists {}").format(target))
            try:
                connection.execute(sql.SQL("create table {} ({})").format(target, columns))
            except psycopg.errors.DuplicateTable:
                raise ValueError(
                    f"table {name} exists; pass allow_overwrite=True to replace it"
                ) from None
            arrow_copy.write(connection, table, target, table.column_names)


def _prepare(connection: psycopg.Connection, timeout: int | None) -> None:
    """One look-up a row by the primary key is the plan, whatever the statistics say."""
    for setting in ("enable_seqscan", "enable_bitmapscan", "enable_memoize", "jit"):
        connection.execute(sql.SQL("set local {} = off").format(sql.SQL(setting)))
    if timeout is not None:
        limit = sql.Literal(int(timeout * 1000))
        connection.execute(sql.SQL("set local statement_timeout = {}").format(limit))


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


def beside(frame: pa.Table, features: pa.Table) -> pa.Table:
    """The features, whose first column says which row of the frame they are for, beside it."""
    numbers = features.column(0).to_numpy()
    places = np.empty_like(numbers)
    places[numbers] = np.arange(len(numbers))
    in_order = bool((np.diff(numbers) > 0).all())
    for name in features.column_names[1:]:
        column = features.column(name)
        if not in_order:
            column = column.combine_chunks().take(pa.array(places))
        frame = frame.append_column(features.field(name), column)
        features = features.drop_columns([name])  # or both copies would be held to the end
    return frame


def _column(field: Field, values: list[Value]) -> pa.Array:
    """An on-demand feature's values as a column of its type."""
    kind = type_of(field)
    if kind is None:
        return pa.array([feast_value_type_to_python_type(value) for value in values])
    found = [from_value(kind, value) for value in values]
    if kind == "uuid":
        found = [value if value is None else str(value) for value in found]
    if kind == "numeric":
        return pa.array(found) if any(found) else pa.array(found, pa.decimal128(38, 0))
    return pa.array(found, arrow_copy.arrow_type(field.name, kind))


def _beyond_float(column: pa.ChunkedArray) -> bool:
    found = pc.min_max(column).as_py()
    return found["min"] is not None and (found["min"] < -EXACT or found["max"] > EXACT)
