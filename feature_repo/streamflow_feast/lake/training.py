"""`get_historical_features` where the versions lie on the lake: a job of Spark.

A pandas frame sends its keys and instants there, and its other columns never leave the process, as
with Postgres. A frame that is a query is one of Spark's: with `job.to_spark_df()` neither its rows
nor the features pass through this process.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast.feature_view import FeatureView
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.offline_store import RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from psycopg import sql

from data.lake.session import session
from streamflow_feast.lake import point_in_time as on_lake
from streamflow_feast.offline import entity_frame, frame_read, point_in_time
from streamflow_feast.offline.point_in_time import Bounds, View
from streamflow_feast.offline.retrieval_job import StreamflowRetrievalJob
from streamflow_feast.views import type_of


class LakeRetrievalJob(StreamflowRetrievalJob):
    """Reads features for a request's frame, or for a query of Spark."""

    def __init__(
        self, views: list[View], bounds: Bounds, asked: str | None, **arguments: Any
    ) -> None:
        super().__init__(query=sql.Composed([]), **arguments)
        self.views, self.bounds, self.asked = views, bounds, asked

    def to_spark_df(self) -> Any:
        """The frame with its features as a DataFrame of Spark; nothing is read yet.

        On-demand features are not in it: they are computed in Python, row by row.
        """
        keys = list(point_in_time.frame_keys(self.views))
        if isinstance(self._source, frame_read.Request):
            frame, instants = self._source.frame, self._source.instants
            session().createDataFrame(frame).createOrReplaceTempView(on_lake.FRAME)
            columns = frame.column_names
        else:
            asked = session().sql(self.asked or "")
            asked.createOrReplaceTempView(on_lake.FRAME)
            columns = asked.columns
            instants = entity_frame.instant_column(
                pa.schema([_arrow_field(name, kind) for name, kind in asked.dtypes]).empty_table()
            )
        for key in keys:
            if key not in columns:
                raise entity_frame.EntityFrameError(
                    f"entity frame: no column {key} (columns: {', '.join(columns)})"
                )
        same = {key: key for key in keys}
        return session().sql(on_lake.join(self.views, same, instants, columns, self.bounds))

    def _look_all_up(self, timeout: int | None = None) -> pa.Table:
        request = self._source
        if not isinstance(request, frame_read.Request):
            return _cast(self.to_spark_df().toArrow(), request)
        names = point_in_time.key_columns(list(request.keys))
        rows = pa.table(
            [
                pa.array(np.arange(len(request.frame))),
                *(request.frame.column(name) for name in (request.instants, *request.keys)),
            ],
            names=names,
        )
        session().createDataFrame(rows).createOrReplaceTempView(on_lake.FRAME)
        columns = dict(zip(request.keys, names[2:], strict=True))
        query = on_lake.join(
            self.views, columns, point_in_time.INSTANT, [point_in_time.ROW], self.bounds
        )
        fields = [field for view in self.views for field in frame_read.feature_fields(view)]
        schema = pa.schema([(point_in_time.ROW, pa.int64()), *fields])
        found = frame_read.in_order(_cast(session().sql(query).toArrow(), schema))
        table = request.frame
        for field in fields:
            table = table.append_column(field, found[field.name])
        return table


def historical(
    config: RepoConfig,
    feature_views: list[FeatureView],
    feature_refs: list[str],
    entity_df: pd.DataFrame | str | None,
    registry: BaseRegistry,
    project: str,
    full_feature_names: bool,
    bounds: Bounds,
    any_range: Any,
) -> LakeRetrievalJob:
    """A job for the features of every row of `entity_df`; a text is a query of Spark.

    Raises:
        EntityFrameError: the frame cannot be used, see `entity_frame`.
        ValueError: a range is asked for instead of a frame.
    """
    if entity_df is None:
        raise ValueError(
            "where features lie on a lake, say which entities: a frame, or a query of Spark as "
            "select user_id, as_of as event_timestamp from published.user_features_latest"
        )
    contexts = offline_utils.get_feature_view_query_context(
        feature_refs, feature_views, registry, project, any_range
    )
    by_name = {view.projection.name_to_use(): view for view in feature_views}
    views = [_view(context, by_name[context.name], full_feature_names) for context in contexts]
    keys = point_in_time.frame_keys(views)
    source: frame_read.Request | pa.Schema
    asked = None
    if isinstance(entity_df, str):
        asked = entity_df.strip().removesuffix(";")
        kinds = session().sql(asked).dtypes
        fields = [field for view in views for field in frame_read.feature_fields(view)]
        source = pa.schema([*(_arrow_field(name, kind) for name, kind in kinds), *fields])
        columns = [name for name, _ in kinds]
    else:
        table = entity_frame.from_pandas(entity_df)
        instants = entity_frame.instant_column(table)
        table = entity_frame.checked(table, instants, keys)
        source = frame_read.Request(table, instants, keys, views, bounds)
        columns = [name for name in table.column_names if name != instants]
    frame_read.refuse_clashes(columns, views)
    return LakeRetrievalJob(
        views,
        bounds,
        asked,
        config=config,
        source=source,
        full_feature_names=full_feature_names,
        on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(
            feature_refs, project, registry
        ),
        metadata=RetrievalMetadata(feature_refs, columns, None, None),
    )


def _view(context: Any, view: FeatureView, full_names: bool) -> View:
    types = {
        field.name: type_of(field) or "text" for field in (*view.features, *view.entity_columns)
    }
    table = context.table_subquery.replace("`", "")
    return frame_read.view_of(context, table, types, view, full_names)


def _arrow_field(name: str, spark_type: str) -> pa.Field:
    from pyspark.sql.pandas.types import to_arrow_type
    from pyspark.sql.types import _parse_datatype_string

    kind = to_arrow_type(_parse_datatype_string(spark_type))
    return pa.field(name, entity_frame.UTC if spark_type == "timestamp" else kind)


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A result of Spark in the types that Postgres would have given."""
    return pa.table(
        {field.name: table.column(field.name).cast(field.type) for field in schema}, schema=schema
    )


def read(query: str, schema: pa.Schema) -> pa.Table:
    """A query's rows with these types."""
    return _cast(session().sql(query).toArrow(), schema)
