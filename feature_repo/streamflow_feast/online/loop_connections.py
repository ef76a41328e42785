"""Connections for reads in an event loop: few, made when needed, closed with the loop.

psycopg's own async pool opens connections in tasks of its own. A loop that ends while one of them
is busy, as every `asyncio.run` does whose program forgot `await store.close()`, waits for it for
ever. Here nothing runs that nobody awaits.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import psycopg

from data.database import Database, no_connection
from streamflow_feast.connections import IDLE, WAIT, DatabaseUnreachable, exhausted

Result = TypeVar("Result")
Connection = psycopg.AsyncConnection
MOST = 8  # connections of a loop and address


class _LoopConnections:
    """Those of one event loop to one address."""

    def __init__(self, conninfo: str) -> None:
        self.conninfo = conninfo
        self._idle: list[tuple[float, Connection]] = []  # since when, the newest last
        self._free = asyncio.Semaphore(MOST)
        self._closed = False
        self._guard = self._until_the_loop_ends()

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        """A loop closes the generators that it started: its way to say that it ends."""
        try:
            yield
        finally:
            self._closed = True
            await self.drop_idle()

    async def open(self) -> None:
        await anext(self._guard)

    async def close(self) -> None:
        await self._guard.aclose()

    async def drop_idle(self) -> None:
        """Close what nobody uses; also in another loop, as psycopg does not wait for anything."""
        while self._idle:
            await self._idle.pop()[1].close()

    @asynccontextmanager
    async def connection(self, settings: Database, serving: bool) -> AsyncIterator[Connection]:
        try:
            await asyncio.wait_for(self._free.acquire(), WAIT)
        except asyncio.TimeoutError:
            raise exhausted(settings) from None
        try:
            connection = await self._take() or await self._connect(settings, serving)
            try:
                yield connection
            finally:
                await self._give_back(connection)
        finally:
            self._free.release()

    async def _take(self) -> Connection | None:
        while self._idle:
            since, connection = self._idle.pop()
            if not connection.closed and time.monotonic() - since < IDLE:
                return connection
            await connection.close()
        return None

    async def _connect(self, settings: Database, serving: bool) -> Connection:
        try:
            return await Connection.connect(
                self.conninfo, autocommit=True, connect_timeout=int(WAIT)
            )
        except psycopg.OperationalError as error:
            raise DatabaseUnreachable(no_connection(error, settings, serving=serving)) from None

    async def _give_back(self, connection: Connection) -> None:
        # A reader that was cancelled may have left an answer on the way.
        clean = connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE
        if clean and not self._closed:
            self._idle.append((time.monotonic(), connection))
        else:
            await connection.close()


_by_loop: dict[tuple[asyncio.AbstractEventLoop, str], _LoopConnections] = {}
_inherited: list[_LoopConnections] = []  # after a fork: the parent's, never to be touched


def _after_fork() -> None:
    _inherited.extend(_by_loop.values())
    _by_loop.clear()


os.register_at_fork(after_in_child=_after_fork)


async def read(
    settings: Database,
    work: Callable[[Connection], Awaitable[Result]],
    *,
    serving: bool = False,
) -> Result:
    """As `connections.read`, in the running event loop.

    Raises:
        DatabaseUnreachable: no connection could be had within WAIT seconds.
    """
    connections = await _of_this_loop(settings, serving)
    try:
        async with connections.connection(settings, serving) as connection:
            return await work(connection)
    except psycopg.OperationalError as lost:
        if isinstance(lost, DatabaseUnreachable):
            raise
    await connections.drop_idle()  # after a server restart every idle connection is dead
    async with connections.connection(settings, serving) as connection:
        return await work(connection)


async def close() -> None:
    """Close the connections of the running event loop; they open again when needed."""
    loop = asyncio.get_running_loop()
    for key in [key for key in _by_loop if key[0] is loop]:
        await _by_loop.pop(key).close()


async def _of_this_loop(settings: Database, serving: bool) -> _LoopConnections:
    for key in [key for key in list(_by_loop) if key[0].is_closed()]:
        if ended := _by_loop.pop(key, None):
            await ended.drop_idle()  # of a loop that was closed without ending its generators
    conninfo = settings.conninfo(serving=serving, application_name="streamflow feast")
    key = (asyncio.get_running_loop(), conninfo)
    if key not in _by_loop:
        _by_loop[key] = made = _LoopConnections(conninfo)
        await made.open()
    return _by_loop[key]
