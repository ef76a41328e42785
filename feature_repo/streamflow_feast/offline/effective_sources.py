"""Sources for Feast's own joins: a versioned table as the rows that count, as known at an instant.

Feast's Postgres store knows of neither versions nor retractions nor known_at. Where it has to do a
join, because another kind of source takes part or because a view's rows are pulled, it gets a
query of the effective rows instead of the table.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Sequence
from datetime import datetime, timezone

from feast.data_source import DataSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from psycopg import sql

from streamflow_feast.offline import point_in_time
from streamflow_feast.offline.point_in_time import View


class MixedSourcesError(ValueError):
    """What was asked for cannot be told of these views together; says why and what to do."""


def effective(source: DataSource, keys: Sequence[str], known_at: datetime | None) -> DataSource:
    """A versioned source as the query of its effective rows."""
    schema, _, table = source.get_table_query_string().partition(".")
    columns = {key: key for key in keys}
    view = View(
        source.name, schema, table, columns, {}, source.timestamp_field,
        source.created_timestamp_column,
    )  # fmt: skip
    return _instead(source, point_in_time.effective(view, known_at))


def as_known(
    feature_views: Sequence[FeatureView],
    versioned: Collection[str],
    known_at: datetime | None,
    by_created: bool,
) -> list[FeatureView]:
    """The views of a request to Feast's own join, each with a source that knows what was known.

    A source with a created timestamp is cut at `known_at`; one without cannot be, which is told by
    a warning.

    Raises:
        MixedSourcesError: `by_created` (filter_by_created_timestamp) with a versioned view.
    """
    names = [view.name for view in feature_views]
    if by_created and (some := [name for name in names if name in versioned]):
        others = ", ".join(name for name in names if name not in versioned)
        raise MixedSourcesError(
            f"filter_by_created_timestamp: {', '.join(some)} (versioned) and {others} (another "
            "source) have to be asked for in requests of their own"
        )
    views = []
    for view in feature_views:
        source = view.batch_source
        if view.name in versioned:
            back = {name: column for column, name in source.field_mapping.items()}
            keys = [back.get(field.name, field.name) for field in view.entity_columns]
            source = effective(source, keys, known_at)
        elif known_at is not None:
            source = _known(view, known_at)
        copied = copy.copy(view)
        copied.projection, copied.batch_source = view.projection, source
        views.append(copied)
    return views


def _known(view: FeatureView, known_at: datetime) -> DataSource:
    """The rows of another source that were there at `known_at`."""
    source = view.batch_source
    if not source.created_timestamp_column:
        warnings.warn(
            f"as_known_at: the source of {view.name} does not say when a row was known (it has no "
            "created_timestamp_column), so that its values are those of today",
            UserWarning,
            stacklevel=6,
        )
        return source
    # The literal takes the column's type; in one without a zone are instants of UTC.
    query = sql.SQL("select * from {} as source where {} <= {}").format(
        sql.SQL(source.get_table_query_string()),
        sql.Identifier(source.created_timestamp_column),
        sql.Literal(known_at.astimezone(timezone.utc).isoformat()),
    )
    return _instead(source, query)


def _instead(source: DataSource, query: sql.Composed) -> PostgreSQLSource:
    return PostgreSQLSource(
        name=source.name,
        query=query.as_string(),
        timestamp_field=source.timestamp_field,
        created_timestamp_column=source.created_timestamp_column,
        field_mapping=source.field_mapping,
    )
