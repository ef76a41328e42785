"""Feast's online store on typed tables: one row an entity and view in schema `online`.

What differs from Feast's own Postgres store, and why: `docs/stock-feast.md`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal

import psycopg
from feast import Entity, FeatureService, FeatureView
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.online_response import OnlineResponse
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
from streamflow_feast.kinds import from_value, register_json, to_value
from streamflow_feast.online import loop_connections
from streamflow_feast.online import tables as online_tables
from streamflow_feast.online.answer import add_full_names, asked_for, fill, key_value, left_out
from streamflow_feast.online.read import Lookup, select_vectors
from streamflow_feast.tables import View, identifiers
from streamflow_feast.views import view_of

Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
FeatureRow = tuple[datetime | None, dict[str, Value] | None]
MISMATCH = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn)


class OnlineStoreError(RuntimeError):
    """An online table or column is missing, or a row lacks a join key; says what to do."""


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

    def get_online_features(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        *arguments: Any,
        full_feature_names: bool = False,
        **options: Any,
    ) -> OnlineResponse:
        """As Feast's; with full names Feast leaves on-demand features in Python mode out."""
        ask = super().get_online_features
        response = ask(
            config, features, *arguments, full_feature_names=full_feature_names, **options
        )
        if full_feature_names and (lacking := left_out(features, response)):
            add_full_names(response, ask(config, lacking, *arguments, **options), lacking)
        return response

    async def get_online_features_async(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        *arguments: Any,
        full_feature_names: bool = False,
        **options: Any,
    ) -> OnlineResponse:
        """As get_online_features."""
        ask = super().get_online_features_async
        response = await ask(
            config, features, *arguments, full_feature_names=full_feature_names, **options
        )
        if full_feature_names and (lacking := left_out(features, response)):
            add_full_names(response, await ask(config, lacking, *arguments, **options), lacking)
        return response

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[FeatureRow]:
        """(as_of, values) a key in the order asked; (None, None) for an entity without a row."""
        view, features = view_of(table), requested_features or view_of(table).names
        rows = self._fetch(config, *_of_keys(view, features, entity_keys))
        return [_feature_row(view, features, row) for row in rows]

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[FeatureRow]:
        """As online_read."""
        view, features = view_of(table), requested_features or view_of(table).names
        rows = await self._fetch_async(config, *_of_keys(view, features, entity_keys))
        return [_feature_row(view, features, row) for row in rows]

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
        request = asked_for(grouped_refs, join_key_values)
        rows = self._fetch(config, request.lookups, request.columns, request.keys)
        fill(
            online_features_response, request, rows, full_feature_names,
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
        request = asked_for(grouped_refs, join_key_values)
        rows = await self._fetch_async(config, request.lookups, request.columns, request.keys)
        fill(
            online_features_response, request, rows, full_feature_names,
            include_feature_view_version_metadata,
        )  # fmt: skip

    def _fetch(
        self,
        config: RepoConfig,
        lookups: Sequence[Lookup],
        columns: dict[str, str],
        keys: list[list[Any]],
    ) -> list[tuple[Any, ...]]:
        if not lookups:
            return []
        query = select_vectors(lookups, columns)

        def work(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
            with connection.cursor(binary=True) as cursor:
                register_json(cursor.adapters)
                return cursor.execute(query, keys).fetchall()

        try:
            return connections.read(Database(), work, serving=_serving(config))
        except MISMATCH as missing:
            raise _missing(missing) from missing

    async def _fetch_async(
        self,
        config: RepoConfig,
        lookups: Sequence[Lookup],
        columns: dict[str, str],
        keys: list[list[Any]],
    ) -> list[tuple[Any, ...]]:
        if not lookups:
            return []
        query = select_vectors(lookups, columns)

        async def work(connection: psycopg.AsyncConnection) -> list[tuple[Any, ...]]:
            async with connection.cursor(binary=True) as cursor:
                register_json(cursor.adapters)
                return await (await cursor.execute(query, keys)).fetchall()

        try:
            return await loop_connections.read(Database(), work, serving=_serving(config))
        except MISMATCH as missing:
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
        """Write pushed rows, marked as such. One that is older than the row online, by (event,
        created), is left out; see docs/decisions/0112-pushed-rows.md for how long one stays.

        A row without a created timestamp replaces one of its as_of.
        """
        view = view_of(table)
        try:
            with (
                connections.transaction(Database(), "feast push") as connection,
                connection.cursor() as cursor,
            ):
                cursor.executemany(_upsert(view), [_parameters(view, row) for row in data])
        except MISMATCH as missing:
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


def _of_keys(
    view: View, features: Sequence[str], entity_keys: Sequence[EntityKey]
) -> tuple[list[Lookup], dict[str, str], list[list[Any]]]:
    """What `_fetch` takes, for the rows of one view."""
    given = [dict(zip(key.join_keys, key.entity_values, strict=True)) for key in entity_keys]
    keys = [
        [key_value(name, kind, values.get(name, Value())) for values in given]
        for name, kind in view.keys
    ]
    own = {name: name for name in view.key_names}
    return [Lookup(view.name, own, list(features))], dict(view.keys), keys


def _missing(error: psycopg.Error) -> OnlineStoreError:
    return OnlineStoreError(
        f"{str(error).splitlines()[0]}: the online tables and Feast's registry do not match. "
        "Bring them together with: cd feature_repo && feast apply"
    )


def _feature_row(view: View, features: Sequence[str], row: Sequence[Any]) -> FeatureRow:
    as_of, _, *values = row
    if as_of is None:
        return None, None
    kinds = dict(view.columns)
    return as_of, {
        name: to_value(kinds[name], value) for name, value in zip(features, values, strict=True)
    }


def _upsert(view: View) -> sql.Composed:
    placeholders = [sql.Placeholder(str(n)) for n in range(len(view.keys) + len(view.names))]
    return sql.SQL(
        "insert into {online} as online ({columns}, as_of, known_at, published_at, pushed_at)"
        " values ({values}, %(as_of)s, %(known_at)s, clock_timestamp(), clock_timestamp())"
        " on conflict ({keys}) do update set ({features}, as_of, known_at, published_at, pushed_at)"
        " = row({excluded}, excluded.as_of, excluded.known_at, excluded.published_at,"
        " excluded.pushed_at)"
        " where (online.as_of, coalesce(online.known_at, '-infinity'))"
        " <= (excluded.as_of, coalesce(excluded.known_at, 'infinity'))"
    ).format(
        online=view.table,
        columns=identifiers((*view.key_names, *view.names)),
        keys=identifiers(view.key_names),
        features=identifiers(view.names),
        values=sql.SQL(", ").join(placeholders),
        excluded=identifiers(view.names, "excluded"),
    )


def _parameters(view: View, row: Row) -> dict[str, Any]:
    key, values, event, created = row
    given = dict(zip(key.join_keys, key.entity_values, strict=True))
    keys = [key_value(name, kind, given.get(name, Value())) for name, kind in view.keys]
    missing = [name for name, value in zip(view.key_names, keys, strict=True) if value is None]
    if _is_null(event):
        missing.append("event timestamp")
    if missing:
        raise OnlineStoreError(f"A row for {view.name} has no {missing[0]}; nothing was written.")
    features = [from_value(kind, values.get(name, Value())) for name, kind in view.columns]
    return {
        "as_of": make_tzaware(event),
        "known_at": None if _is_null(created) else make_tzaware(created),
        **{str(number): value for number, value in enumerate([*keys, *features])},
    }


def _is_null(instant: datetime | None) -> bool:
    """Feast passes pandas' NaT on, which is a datetime, and would be stored as infinity."""
    return instant is None or instant != instant
