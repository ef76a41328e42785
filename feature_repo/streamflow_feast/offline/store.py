"""Feast's offline store over versioned tables: one index look-up a (entity row, view).

Stock Feast joins the whole history to the frame, ranks it and joins again; it knows of no
retracted versions and moves rows one Python object a cell. Here the frame's keys go in by COPY,
Postgres answers each row from the primary key (see `point_in_time`), and the result comes back by
COPY as Arrow. Columns of the frame other than keys and instants never leave the process, so that
they come back as they are. Sources other than the versioned tables in `published` take the stock
path.

`with as_known_at(K):` asks for what was known at K.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from feast.data_source import DataSource
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import (
    PostgreSQLOfflineStore,
    PostgreSQLOfflineStoreConfig,
)
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from pydantic import Field, PositiveInt, StrictStr

from data.database import Database, no_connection
from streamflow_feast import (
    feature_logs,
    one_line,  # noqa: F401
    pickling,  # noqa: F401
)
from streamflow_feast.connections import DatabaseUnreachable
from streamflow_feast.dbt.publications import require_answer
from streamflow_feast.dbt.types import digits
from streamflow_feast.lake.ledger import is_of_lake
from streamflow_feast.offline import (
    arrow_copy,
    effective_sources,
    entity_frame,
    frame_read,
    point_in_time,
)
from streamflow_feast.offline.point_in_time import HISTORY, Bounds, View
from streamflow_feast.offline.retrieval_job import StreamflowRetrievalJob
from streamflow_feast.offline.time_range import date_range
from streamflow_feast.provider import offline_refused
from streamflow_feast.views import type_of

SCHEMA = "published"
_known_at: ContextVar[datetime | None] = ContextVar("known_at", default=None)


@contextmanager
def as_known_at(known_at: datetime | None) -> Iterator[None]:
    """Inside, `get_historical_features` sees the versions published with known_at <= this one.

    None: all that is published. A naive instant is taken as UTC. The instant counts when
    `get_historical_features` is called, not when its job runs.
    """
    if known_at is not None and known_at.tzinfo is None:
        known_at = known_at.replace(tzinfo=timezone.utc)
    token = _known_at.set(known_at)
    try:
        yield
    finally:
        _known_at.reset(token)


class StreamflowOfflineStoreConfig(PostgreSQLOfflineStoreConfig):
    """Connection settings default to data.database's, so that feature_store.yaml needs none."""

    type: Literal["streamflow_feast.offline.store.StreamflowOfflineStore"] = (
        "streamflow_feast.offline.store.StreamflowOfflineStore"
    )
    host: StrictStr = Field(default_factory=lambda: Database().host)
    port: int = Field(default_factory=lambda: Database().port)
    database: StrictStr = Field(default_factory=lambda: Database().database)
    user: StrictStr = Field(default_factory=lambda: Database().user)
    password: StrictStr = Field(
        default_factory=lambda: Database().password.get_secret_value(), repr=False
    )
    sslmode: StrictStr | None = Field(default_factory=lambda: Database().sslmode)
    connections: PositiveInt = 2
    """A large frame is looked up on this many connections side by side, from one snapshot."""
    nullable_dtypes: bool = False
    """`to_df` gives pandas' nullable types: Int64, boolean, string. Feast's own are the default."""

    def connect(self) -> psycopg.Connection:
        """One connection, in UTC. Raises DatabaseUnreachable, which says why there is none."""
        settings = self.model_dump(
            include={"host", "port", "database", "user", "password", "sslmode"}, exclude_none=True
        )
        database = Database(**settings)
        try:
            return database.connect(application_name="streamflow-training")
        except psycopg.OperationalError as error:
            raise DatabaseUnreachable(no_connection(error, database)) from None


class StreamflowOfflineStore(PostgreSQLOfflineStore):
    """Point-in-time reads of versioned tables; everything else as Feast's Postgres store."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **kwargs: Any,
    ) -> RetrievalJob:
        """A job for the features of every row of `entity_df`, in its order, or of a date range.

        The frame is checked, and an entity query run, at once; the features are read when the
        job's result is asked for.

        Raises:
            EntityFrameError: the frame cannot be used, see `entity_frame`.
            ValueError: a feature is no column of its table; the table is missing.
        """
        if any(is_of_lake(view.batch_source) for view in feature_views):
            from streamflow_feast.lake.training import historical  # of an optional extra

            return historical(
                config, feature_views, feature_refs, entity_df, registry, project,
                full_feature_names, Bounds(_known_at.get(), filter_by_created_timestamp),
                _ANY_RANGE,
            )  # fmt: skip
        store: StreamflowOfflineStoreConfig = config.offline_store
        with store.connect() as connection:
            require_answer(connection, _known_at.get())
            types = {view.name: _column_types(connection, view) for view in feature_views}
            if entity_df is None:
                asked = date_range(kwargs.get("start_date"), kwargs.get("end_date"), feature_views)
                kwargs |= {"start_date": asked[0], "end_date": asked[1]}
            if not all(types.values()):
                versioned = {name for name, columns in types.items() if columns}
                known = effective_sources.as_known(
                    feature_views, versioned, _known_at.get(), filter_by_created_timestamp
                )
                return PostgreSQLOfflineStore.get_historical_features(
                    config, known, feature_refs, entity_df, registry, project,
                    full_feature_names, filter_by_created_timestamp, **kwargs,
                )  # fmt: skip
            if isinstance(entity_df, str):
                frame = entity_frame.from_query(connection, entity_df)
            else:
                frame = None if entity_df is None else entity_frame.from_pandas(entity_df)
        bounds = Bounds(_known_at.get(), filter_by_created_timestamp)
        contexts = offline_utils.get_feature_view_query_context(
            feature_refs, feature_views, registry, project, _ANY_RANGE
        )
        views = [
            _view(context, types[view.name], view, full_feature_names)
            for context, view in _paired(contexts, feature_views)
        ]
        keys = point_in_time.frame_keys(views)
        start: datetime | None
        end: datetime | None
        source: frame_read.Request | pa.Schema
        if frame is None:
            start, end = asked
            query = point_in_time.between(views, start, end, bounds)
            source = _range_schema(views, keys)
            frame_columns = list(keys)
        else:
            instants = entity_frame.instant_column(frame)
            frame = entity_frame.checked(frame, instants, keys)
            frame_read.refuse_clashes(frame.column_names, views)
            start, end = _extent(frame.column(instants))
            query = point_in_time.join(views, bounds)
            source = frame_read.Request(frame, instants, keys, views, bounds)
            frame_columns = [name for name in frame.column_names if name != instants]
        return StreamflowRetrievalJob(
            config=config,
            query=query,
            source=source,
            full_feature_names=full_feature_names,
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(
                feature_refs, project, registry
            ),
            metadata=RetrievalMetadata(feature_refs, frame_columns, start, end),
        )

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """As Feast's; of what lies on the lake the manifest of its publication has told."""
        if not is_of_lake(data_source):
            super().validate_data_source(config, data_source)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Any
    ) -> None:
        """Raises PushError: history is what a build published."""
        raise offline_refused(feature_view.name)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry | None,
    ) -> None:
        """Logs of served features, to a folder of Parquet files. Raises FeatureLogError."""
        feature_logs.write(data, logging_config)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        *args: Any,
        **kwargs: Any,
    ) -> RetrievalJob:
        """As Feast's, of the newest versions that are not retracted."""
        return PostgreSQLOfflineStore.pull_latest_from_table_or_query(
            config,
            _effective(config, data_source, join_key_columns),
            join_key_columns,
            *args,
            **kwargs,
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        *args: Any,
        **kwargs: Any,
    ) -> RetrievalJob:
        """As Feast's, of the newest versions that are not retracted."""
        return PostgreSQLOfflineStore.pull_all_from_table_or_query(
            config,
            _effective(config, data_source, join_key_columns),
            join_key_columns,
            *args,
            **kwargs,
        )


_ANY_RANGE = (datetime(1970, 1, 2, tzinfo=timezone.utc), datetime(1970, 1, 2, tzinfo=timezone.utc))


def _versioned_columns(connection: psycopg.Connection, source: DataSource) -> dict[str, str]:
    """Columns and types of a versioned table; empty for any other source.

    Raises:
        ValueError: the source is in `published`, and is not there.
    """
    table = getattr(getattr(source, "_postgres_options", None), "_table", "")
    schema, _, name = table.partition(".")
    if schema == HISTORY and _known_at.get() is None:
        raise ValueError(f"{table} holds versions that are not published: read {SCHEMA}.{name}")
    if schema not in (SCHEMA, HISTORY) or not name or not source.created_timestamp_column:
        return {}
    columns: dict[str, str] = dict(
        connection.execute(
            """
            select attname, format_type(atttypid, atttypmod)
            from pg_attribute
            where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped
            """,
            [table],
        ).fetchall()
    )
    if not columns:
        raise ValueError(f"{table} does not exist: cd dbt_project && dbt build")
    return columns if "is_retracted" in columns else {}


def _column_types(connection: psycopg.Connection, view: FeatureView) -> dict[str, str]:
    """Column -> Postgres type of a versioned view; empty for any other.

    As the view declares them: in HISTORY a column may have been widened since, and a published
    view may show a numeric(12,2) as numeric.
    """
    types = _versioned_columns(connection, view.batch_source)
    if not types:
        return {}
    declared = {field.name: type_of(field) for field in (*view.features, *view.entity_columns)}
    history = view.batch_source.get_table_query_string().startswith(f"{HISTORY}.")
    for name, kind in declared.items():
        if kind and name in types and (history or (digits(kind) and types[name] == "numeric")):
            types[name] = kind
    return types


def _paired(contexts: list[Any], views: list[FeatureView]) -> Iterator[tuple[Any, FeatureView]]:
    by_name = {view.projection.name_to_use(): view for view in views}
    return ((context, by_name[context.name]) for context in contexts)


def _view(context: Any, types: dict[str, str], view: FeatureView, full_names: bool) -> View:
    """What `point_in_time` needs to know of Feast's context of one view."""
    for column in context.features:
        if column not in types:
            name = context.field_mapping.get(column, column)
            raise ValueError(
                f"feature {context.name}:{name} is no column of {context.table_subquery}: "
                "cd dbt_project && dbt build, then cd feature_repo && feast apply"
            )
    return frame_read.view_of(context, context.table_subquery, types, view, full_names)


def _range_schema(views: list[View], keys: dict[str, str]) -> pa.Schema:
    instants = ["event_timestamp", *(["created_timestamp"] if len(views) == 1 else [])]
    fields = [pa.field(name, entity_frame.UTC) for name in instants]
    return pa.schema(
        [
            *fields,
            *(pa.field(key, arrow_copy.arrow_type(key, kind)) for key, kind in keys.items()),
            *(field for view in views for field in frame_read.feature_fields(view)),
        ]
    )


def _extent(instants: pa.ChunkedArray) -> tuple[datetime | None, datetime | None]:
    found = pc.min_max(instants).as_py()
    return found["min"], found["max"]


def _effective(config: RepoConfig, source: DataSource, keys: list[str]) -> DataSource:
    """A versioned source as the query of its effective rows; another source as it is."""
    with config.offline_store.connect() as connection:
        if not _versioned_columns(connection, source):
            return source
    return effective_sources.effective(source, keys, _known_at.get())
