"""Feast's online store on typed tables: one row a user and view in schema `online`.

What differs from Feast's own Postgres store, and why: `docs/stock-feast.md`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal

import psycopg
from feast import Entity, FeatureView
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.utils import make_tzaware
from psycopg import sql

from data.database import Database, no_connection
from streamflow_feast import (
    connections,
    pickling,  # noqa: F401
)
from streamflow_feast.online import loop_connections
from streamflow_feast.online import tables as online_tables
from streamflow_feast.online.answer import Asked, asked_for, fill, together, user_id_of
from streamflow_feast.online.read import Vector, select_vectors, split_row
from streamflow_feast.tables import View, identifiers
from streamflow_feast.views import from_value, to_value, view_of

Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
FeatureRow = tuple[datetime | None, dict[str, Value] | None]


class OnlineStoreError(RuntimeError):
    """An online table or column is missing, or a row has no user_id; says what to do."""


class StreamflowOnlineStoreConfig(FeastConfigBaseModel):
    """`online_store` in feature_store.yaml; the connection comes from data/database.py."""

    type: Literal["streamflow_feast.online.store.StreamflowOnlineStore"] = (
        "streamflow_feast.online.store.StreamflowOnlineStore"
    )
    serving: bool = False
    """Connect as the serving role, which can only read."""


class StreamflowOnlineStore(OnlineStore):
    """Reads of several views are one statement; writes never replace a newer row by an older."""

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        return SupportedAsyncMethods(read=True, write=True)

    # Reading

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[FeatureRow]:
        """(as_of, values) a key in the order asked; (None, None) for a user without a row."""
        view, features = view_of(table), requested_features or view_of(table).names
        asked = {view.name: list(features)}
        rows = self._fetch(config, asked, [user_id_of(key) for key in entity_keys])
        return [_feature_row(view, features, split_row(row, asked)[0]) for row in rows]

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[FeatureRow]:
        """As online_read."""
        view, features = view_of(table), requested_features or view_of(table).names
        asked = {view.name: list(features)}
        rows = await self._fetch_async(config, asked, [user_id_of(key) for key in entity_keys])
        return [_feature_row(view, features, split_row(row, asked)[0]) for row in rows]

    def _read_features_per_fv(
        self,
        config: RepoConfig,
        grouped_refs: list,
        join_key_values: dict,
        entity_name_to_join_key_map: dict,
        online_features_response: GetOnlineFeaturesResponse,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        """Feast's hook for stores that read several views together."""
        asked = asked_for(grouped_refs, join_key_values, entity_name_to_join_key_map)
        _require_same_users(asked)
        rows = self._fetch(config, *together(asked)) if asked else []
        fill(
            online_features_response, asked, rows, full_feature_names,
            include_feature_view_version_metadata,
        )  # fmt: skip

    async def _read_features_per_fv_async(
        self,
        config: RepoConfig,
        grouped_refs: list,
        join_key_values: dict,
        entity_name_to_join_key_map: dict,
        online_features_response: GetOnlineFeaturesResponse,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        asked = asked_for(grouped_refs, join_key_values, entity_name_to_join_key_map)
        _require_same_users(asked)
        rows = await self._fetch_async(config, *together(asked)) if asked else []
        fill(
            online_features_response, asked, rows, full_feature_names,
            include_feature_view_version_metadata,
        )  # fmt: skip

    def _fetch(
        self, config: RepoConfig, asked: dict[str, list[str]], user_ids: list[str | None]
    ) -> list[tuple[Any, ...]]:
        query = select_vectors(asked)
        try:
            return connections.read(
                Database(),
                lambda connection: connection.execute(query, [user_ids], binary=True).fetchall(),
                serving=_serving(config),
            )
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as missing:
            raise _missing(missing) from missing

    async def _fetch_async(
        self, config: RepoConfig, asked: dict[str, list[str]], user_ids: list[str | None]
    ) -> list[tuple[Any, ...]]:
        query = select_vectors(asked)

        async def work(connection: psycopg.AsyncConnection) -> list[tuple[Any, ...]]:
            return await (await connection.execute(query, [user_ids], binary=True)).fetchall()

        try:
            return await loop_connections.read(Database(), work, serving=_serving(config))
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as missing:
            raise _missing(missing) from missing

    async def close(self) -> None:
        """Close the connections of this event loop; those of one that ends are closed with it."""
        await loop_connections.close()

    # Writing

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write pushed rows. A row older than the one online, by (event, created), is left out.

        A row without a created timestamp replaces one of its as_of, until that as_of is published
        again.
        """
        view = view_of(table)
        try:
            with (
                connections.transaction(Database(), "feast push") as connection,
                connection.cursor() as cursor,
            ):
                cursor.executemany(_upsert(view), [_parameters(view, row) for row in data])
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as missing:
            raise _missing(missing) from missing
        if progress:
            progress(len(data))

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """As online_write_batch; in a thread, as a push is a batch and not a request."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    # Tables

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Make the online tables match the views; prints what was changed, in one transaction."""
        views = [view_of(table) for table in tables_to_keep]
        try:
            with Database().connect(application_name="feast apply") as connection:
                lines = online_tables.reconcile(connection, views)
                dropped = [
                    note
                    for table in tables_to_delete
                    if (note := online_tables.drop(connection, table.name))
                ]
        except psycopg.errors.InvalidSchemaName as missing:
            raise OnlineStoreError(
                "The schema online does not exist. Make it with: python -m data setup"
            ) from missing
        except psycopg.OperationalError as lost:
            if lost.sqlstate:
                raise  # the server refused something, and not the way to it
            raise connections.DatabaseUnreachable(no_connection(lost, Database())) from lost
        for line in lines or ([] if dropped else ["Nothing changed in the online tables."]):
            print(line)
        for note in dropped:
            print(f"WARNING {note}", file=sys.stderr)

    def teardown(
        self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]
    ) -> None:
        """Drop the online tables of these views."""
        with Database().connect(application_name="feast teardown") as connection:
            for table in tables:
                if note := online_tables.drop(connection, table.name):
                    print(note)


def _serving(config: RepoConfig) -> bool:
    return bool(getattr(config.online_store, "serving", False))


def _require_same_users(asked: Sequence[Asked]) -> None:
    if any(part.user_ids != asked[0].user_ids for part in asked):
        raise OnlineStoreError(
            "The views of this request are joined to different users (with_join_key_map), which "
            "is not supported. Ask for them one after the other."
        )


def _missing(error: psycopg.Error) -> OnlineStoreError:
    return OnlineStoreError(
        f"{str(error).splitlines()[0]}: the online tables and Feast's registry do not match. "
        "Bring them together with: cd feature_repo && feast apply"
    )


def _feature_row(view: View, features: Sequence[str], vector: Vector) -> FeatureRow:
    if vector.as_of is None:
        return None, None
    kinds = dict(view.columns)
    return vector.as_of, {
        name: to_value(kinds[name], value)
        for name, value in zip(features, vector.values, strict=True)
    }


def _upsert(view: View) -> sql.Composed:
    return sql.SQL(
        "insert into {online} as online (user_id, {columns}, as_of, known_at, published_at)"
        " values (%(0)s, {values}, %(as_of)s, %(known_at)s, clock_timestamp())"
        " on conflict (user_id) do update set ({columns}, as_of, known_at, published_at)"
        " = row({excluded}, excluded.as_of, excluded.known_at, excluded.published_at)"
        " where (online.as_of, coalesce(online.known_at, '-infinity'))"
        " <= (excluded.as_of, coalesce(excluded.known_at, 'infinity'))"
    ).format(
        online=view.table,
        columns=identifiers(view.names),
        values=sql.SQL(", ").join(
            sql.Placeholder(str(number)) for number in range(1, len(view.names) + 1)
        ),
        excluded=identifiers(view.names, "excluded"),
    )


def _parameters(view: View, row: Row) -> dict[str, Any]:
    key, values, event, created = row
    user_id = user_id_of(key)
    missing = "user_id" if user_id is None else "event timestamp" if _is_null(event) else None
    if missing:
        raise OnlineStoreError(f"A row for {view.name} has no {missing}; nothing was written.")
    features = [from_value(values.get(name, Value())) for name in view.names]
    return {
        "0": user_id,
        "as_of": make_tzaware(event),
        "known_at": None if _is_null(created) else make_tzaware(created),
        **{str(number): value for number, value in enumerate(features, 1)},
    }


def _is_null(instant: datetime | None) -> bool:
    """Feast passes pandas' NaT on, which is a datetime, and would be stored as infinity."""
    return instant is None or instant != instant
