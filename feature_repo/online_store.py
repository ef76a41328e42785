"""Feast's online store on typed tables: one row a user and view in schema `online`.

What differs from Feast's own Postgres store, and why: `docs/stock-feast.md`. The statuses
NULL_VALUE and OUTSIDE_MAX_AGE come from here; Feast's shared code knows only PRESENT and NOT_FOUND.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any, Literal, NamedTuple

import psycopg
from feast import Entity, FeatureView
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.utils import _get_entity_key_protos, _get_unique_entities, make_tzaware
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]
from psycopg import sql
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from data.database import Database
from feature_repo import connections, online_tables
from feature_repo.online_read import Vector, select_vectors, split_row, status
from feature_repo.views import View, from_value, identifiers, to_value, view_of

Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
FeatureRow = tuple[datetime | None, dict[str, Value] | None]


class OnlineStoreError(RuntimeError):
    """An online table or column is missing, or a row has no user_id; says what to do."""


class StreamflowOnlineStoreConfig(FeastConfigBaseModel):
    """`online_store` in feature_store.yaml; the connection comes from data/database.py."""

    type: Literal["feature_repo.online_store.StreamflowOnlineStore"] = (
        "feature_repo.online_store.StreamflowOnlineStore"
    )
    serving: bool = False
    """Connect as the serving role, which can only read."""


class _Asked(NamedTuple):
    """One feature view's part of a request; `rows` are the places of each user in the answer."""

    table: FeatureView
    view: View
    features: list[str]
    user_ids: list[str | None]
    rows: Sequence[list[int]]
    length: int


class StreamflowOnlineStore(OnlineStore):
    """Reads of several views are one statement; writes never replace a newer row by an older."""

    def __init__(self) -> None:
        self._async_pools: dict[int, AsyncConnectionPool] = {}  # by event loop

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
        rows = self._fetch(config, asked, [_user_id(key) for key in entity_keys])
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
        rows = await self._fetch_async(config, asked, [_user_id(key) for key in entity_keys])
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
        asked = _asked(grouped_refs, join_key_values, entity_name_to_join_key_map)
        rows = self._fetch(config, *_together(asked)) if asked else []
        _fill(
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
        asked = _asked(grouped_refs, join_key_values, entity_name_to_join_key_map)
        rows = await self._fetch_async(config, *_together(asked)) if asked else []
        _fill(
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
        pool = await self._async_pool(config)

        async def once() -> list[tuple[Any, ...]]:
            async with pool.connection() as connection:
                return await (await connection.execute(query, [user_ids], binary=True)).fetchall()

        try:
            try:
                return await once()
            except psycopg.OperationalError as lost:
                if isinstance(lost, PoolTimeout):
                    raise
                await pool.check()
                return await once()
        except PoolTimeout:
            raise connections.unreachable(Database()) from None
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as missing:
            raise _missing(missing) from missing

    async def _async_pool(self, config: RepoConfig) -> AsyncConnectionPool:
        loop = id(asyncio.get_running_loop())
        if loop not in self._async_pools:
            pool = connections.async_pool(Database(), serving=_serving(config))
            self._async_pools[loop] = pool  # before the first await: two requests, one pool
            await pool.open()
        return self._async_pools[loop]

    async def initialize(self, config: RepoConfig) -> None:
        await self._async_pool(config)

    async def close(self) -> None:
        """Close the connections of this event loop."""
        pool = self._async_pools.pop(id(asyncio.get_running_loop()), None)
        if pool is not None:
            await pool.close()

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
                connections.pool(Database()).connection() as connection,
                connection.transaction(),
                connection.cursor() as cursor,
            ):
                cursor.executemany(_upsert(view), [_parameters(view, row) for row in data])
        except PoolTimeout:
            raise connections.unreachable(Database()) from None
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
            raise connections.unreachable(Database()) from lost
        for line in lines:
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


def _missing(error: psycopg.Error) -> OnlineStoreError:
    return OnlineStoreError(
        f"{str(error).splitlines()[0]}: the online tables and Feast's registry do not match. "
        "Bring them together with: cd feature_repo && feast apply"
    )


def _user_id(key: EntityKey) -> str | None:
    value = from_value(key.entity_values[0])
    return None if value is None else str(value)


def _feature_row(view: View, features: Sequence[str], vector: Vector) -> FeatureRow:
    if vector.as_of is None:
        return None, None
    kinds = dict(view.columns)
    return vector.as_of, {
        name: to_value(kinds[name], value)
        for name, value in zip(features, vector.values, strict=True)
    }


def _asked(grouped_refs: list, join_key_values: dict, join_keys: dict) -> list[_Asked]:
    asked = []
    for table, features in grouped_refs:
        entities, rows, length = _get_unique_entities(table, join_key_values, join_keys)
        user_ids = [_user_id(key) for key in _get_entity_key_protos(entities)]
        asked.append(_Asked(table, view_of(table), list(features), user_ids, rows, length))
    return asked


def _together(asked: list[_Asked]) -> tuple[dict[str, list[str]], list[str | None]]:
    """The arguments of one statement. All views have the one entity, so the same users; a view
    asked for under two aliases is read once, with the features of both."""
    views: dict[str, list[str]] = {}
    for part in asked:
        features = views.setdefault(part.view.name, [])
        features += [name for name in part.features if name not in features]
    return views, asked[0].user_ids


def _fill(
    response: GetOnlineFeaturesResponse,
    asked: list[_Asked],
    rows: list[tuple[Any, ...]],
    full_feature_names: bool,
    with_versions: bool,
) -> None:
    """Put values, statuses and event timestamps into Feast's response, a column a feature."""
    views = _together(asked)[0] if asked else {}
    vectors = [dict(zip(views, split_row(row, views), strict=True)) for row in rows]
    now = datetime.now(timezone.utc)
    for part in asked:
        projection, kinds = part.table.projection, dict(part.view.columns)
        prefix = f"{projection.name_to_use()}__" if full_feature_names else ""
        response.metadata.feature_names.val.extend(prefix + name for name in part.features)
        if with_versions:
            name = projection.name_alias or projection.name
            if name not in [known.name for known in response.metadata.feature_view_metadata]:
                version = getattr(part.table, "current_version_number", 0) or 0
                response.metadata.feature_view_metadata.add(name=name, version=version)
        stamps = [_timestamp(vector[part.view.name].as_of) for vector in vectors]
        for feature in part.features:
            place = views[part.view.name].index(feature)
            values = [Value()] * part.length
            statuses = [FieldStatus.NOT_FOUND] * part.length
            times = [Timestamp()] * part.length
            for vector, stamp, destinations in zip(vectors, stamps, part.rows, strict=True):
                row = vector[part.view.name]
                value = row.values[place]
                found = status(value, row.as_of, part.view.ttl, now)
                if found.name != "PRESENT":
                    value = None
                for destination in destinations:
                    values[destination] = to_value(kinds[feature], value)
                    statuses[destination] = FieldStatus.Value(found.name)
                    times[destination] = stamp
            response.results.add(values=values, statuses=statuses, event_timestamps=times)


def _timestamp(as_of: datetime | None) -> Timestamp:
    stamp = Timestamp()
    if as_of is not None:
        stamp.FromDatetime(as_of)
    return stamp


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
    user_id = _user_id(key)
    if user_id is None:
        raise OnlineStoreError(f"A row for {view.name} has no user_id; nothing was written.")
    features = [from_value(values.get(name, Value())) for name in view.names]
    return {
        "0": user_id,
        "as_of": make_tzaware(event),
        "known_at": None if created is None else make_tzaware(created),
        **{str(number): value for number, value in enumerate(features, 1)},
    }
