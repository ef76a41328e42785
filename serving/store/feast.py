"""Reads through any online store that Feast has, for example Redis.

Slower than our own: a view at a time, through Feast's protobuf values, in a thread. Such a store
keeps an event timestamp and nothing else, so answers name no publication.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

from feast import FeatureView
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig

from serving.answers import micros
from serving.catalogue import CLOCKS, Row, Service
from serving.problems import Problem
from serving.store.base import KeyColumns, unavailable
from streamflow_feast.kinds import from_value
from streamflow_feast.views import entity_key

log = logging.getLogger("serving.store")


class FeastStore:
    """Adapter of a Feast OnlineStore to `serving.store.base.Store`."""

    def __init__(self, config: RepoConfig, threads: int, waiting: int, timeout: float) -> None:
        self._config, self._timeout = config, timeout
        self._store = get_online_store_from_config(config.online_store)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="feast")
        self._reading, self._most_reading = 0, waiting
        self.up = True  # until a read fails

    async def start(self) -> None:
        """Nothing to do: the store connects at its first read."""

    async def stop(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def read(self, service: Service, keys: KeyColumns) -> list[Row]:
        if self._reading >= self._most_reading:
            raise Problem(503, "overloaded", "Too many reads are waiting; ask again shortly.")
        loop = asyncio.get_running_loop()
        self._reading += 1  # until the thread is done, even if nobody waits for it any more
        reading = loop.run_in_executor(self._threads, self._read, service, keys)
        reading.add_done_callback(self._done)
        try:
            rows = await asyncio.wait_for(asyncio.shield(reading), self._timeout)
        except Exception as error:  # each store has errors of its own; none is the client's doing
            log.warning("read failed: %s", type(error).__name__)
            self.up = False
            raise unavailable() from None
        self.up = True
        return rows

    def _done(self, reading: asyncio.Future) -> None:
        self._reading -= 1
        if not reading.cancelled():
            reading.exception()  # seen, so asyncio does not complain about a late failure

    def _read(self, service: Service, asked: KeyColumns) -> list[Row]:
        values_of = dict(zip(service.keys, asked, strict=True))
        rows: list[list[object]] = [[] for _ in asked[0]]
        for view in service.views:
            columns = [feature.column for feature in view.features]
            kinds = [feature.kind for feature in view.features]
            of = {key: service.keys[column] for key, column in view.keys.items()}
            keys = [
                entity_key(of, values)
                for values in zip(*(values_of[c] for c in view.keys.values()), strict=True)
            ]
            table = FeatureView.from_proto(view.proto)
            # a copy: Feast's Redis store adds a name of its own to the list
            read = self._store.online_read(self._config, table, keys, list(columns))
            for row, (moment, values) in zip(rows, read, strict=True):
                if moment is None or values is None or _nobody(moment, values):
                    row += [None] * (CLOCKS + len(columns))
                    continue
                as_of = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
                row += [micros(as_of), None, None]
                row += [
                    _cell(kind, values[column]) if column in values else None
                    for column, kind in zip(columns, kinds, strict=True)
                ]
        return [tuple(row) for row in rows]


def _cell(kind: str, value: Value) -> object:
    """The value as the project's own store gives it."""
    found = from_value(kind, value)
    return micros(found) if isinstance(found, datetime) else found


def _nobody(moment: datetime, values: dict[str, Value]) -> bool:
    """Whether this is how Feast's Redis store says that it has no row: 1970, nothing set."""
    return moment.timestamp() == 0 and all(v.WhichOneof("val") is None for v in values.values())
