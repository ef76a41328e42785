"""The result of a point-in-time read: as Arrow, as a data frame, or kept in a table.

Types: Postgres's own, exactly; a null bigint stays a null int64 in Arrow. `to_df` follows Feast
(pandas has no null in int64, so such a column becomes float64), except where float64 would alter
a value: then it is pandas' Int64. `to_df(nullable=True)` has nullable types in any case. Instants
keep their zone, UTC, where stock Feast drops it.
"""

from __future__ import annotations

from typing import Any

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
from streamflow_feast.offline import arrow_copy, entity_frame, frame_read
from streamflow_feast.views import type_of

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
    """Reads what a request asks for, or a range: a query whose result has the given columns."""

    def __init__(
        self,
        config: RepoConfig,
        query: sql.Composed,
        source: frame_read.Request | pa.Schema,
        full_feature_names: bool,
        on_demand_feature_views: list[OnDemandFeatureView] | None = None,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        super().__init__(
            query.as_string(), config, full_feature_names, on_demand_feature_views, metadata
        )
        self._query, self._source = query, source

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

    def _look_all_up(self, timeout: int | None = None) -> pa.Table:
        store = self.config.offline_store
        if isinstance(self._source, frame_read.Request):
            return frame_read.read(store, self._source, timeout)
        with store.connect() as connection:
            frame_read.limit(connection, timeout)
            return arrow_copy.read(connection, self._query, self._source)

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
