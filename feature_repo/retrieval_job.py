"""The result of a point-in-time read: as Arrow, as a data frame, or kept in a table.

Types: Postgres's own, exactly; a null bigint stays a null int64 in Arrow. `to_df` follows Feast
(pandas has no null in int64, so such a column becomes float64), except where float64 would alter
a value: then it is pandas' Int64. Instants keep their zone, UTC, where stock Feast drops it.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import (
    PostgreSQLRetrievalJob,
)
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    SavedDatasetPostgreSQLStorage,
)
from feast.infra.offline_stores.offline_store import RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from psycopg import sql

from feature_repo import arrow_copy, point_in_time

EXACT = 2**53  # float64 holds every integer up to here


class StreamflowRetrievalJob(PostgreSQLRetrievalJob):
    """Reads features for a checked entity frame (with the names of its columns), or of a range."""

    def __init__(
        self,
        config: RepoConfig,
        query: sql.Composed,
        schema: pa.Schema,
        frame: tuple[pa.Table, str, list[str]] | None,
        full_feature_names: bool,
        on_demand_feature_views: list[OnDemandFeatureView] | None = None,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        super().__init__(
            query.as_string(), config, full_feature_names, on_demand_feature_views, metadata
        )
        self._query, self._schema, self._frame = query, schema, frame

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with self.config.offline_store.connect() as connection:
            # One look-up a row by the primary key is the plan, whatever the statistics say.
            for setting in ("enable_seqscan", "enable_bitmapscan", "enable_memoize", "jit"):
                connection.execute(sql.SQL("set local {} = off").format(sql.SQL(setting)))
            if timeout is not None:
                connection.execute(
                    sql.SQL("set local statement_timeout = {}").format(int(timeout * 1000))
                )
            if self._frame is None:
                return arrow_copy.read(connection, self._query, self._schema)
            frame, instants, keys = self._frame
            rows = pa.table(
                [
                    pa.array(range(len(frame)), pa.int64()),
                    *(frame.column(name) for name in (instants, *keys)),
                ],
                names=point_in_time.key_columns(keys),
            )
            # On this connection only, dropped with the transaction: it cannot be left behind.
            connection.execute(point_in_time.create_frame(keys))
            arrow_copy.write(connection, rows, point_in_time.FRAME, rows.column_names)
            features = arrow_copy.read(connection, self._query, self._schema)
        numbers = features.column(point_in_time.ROW)
        if not numbers.equals(pa.chunked_array([rows.column(0).combine_chunks()])):
            features = features.take(pc.sort_indices(numbers))
        for name in features.column_names[1:]:
            frame = frame.append_column(features.field(name), features.column(name))
        return frame

    def to_df(self, validation_reference: Any = None, timeout: int | None = None) -> pd.DataFrame:
        """As Feast's, with Int64 for a column of null and large integers, which no float holds."""
        table = self.to_arrow(validation_reference=validation_reference, timeout=timeout)
        frame = table.to_pandas()
        for name in table.column_names:
            column = table.column(name)
            if pa.types.is_int64(column.type) and column.null_count and _beyond_float(column):
                frame[name] = column.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
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


def _beyond_float(column: pa.ChunkedArray) -> bool:
    found = pc.min_max(column).as_py()
    return found["min"] is not None and (found["min"] < -EXACT or found["max"] > EXACT)
