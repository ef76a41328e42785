"""A connection for occasional queries: the registry, the ledger, the page."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Sequence
from typing import Any

import psycopg

from data.database import Database
from serving.store.reach import Reach


class Link:
    """One connection for occasional queries, made again when it broke. One query at a time."""

    def __init__(self, database: Database, reach: Reach, timeout: float, name: str) -> None:
        self._reach = reach
        self._conninfo = database.conninfo(
            serving=True,
            application_name=f"streamflow-serving-{name}",
            options=f"-c statement_timeout={int(timeout * 1000)} -c jit=off",
        )
        self._timeout = timeout
        self._lock = asyncio.Lock()
        self._connection: psycopg.AsyncConnection | None = None

    async def fetch(self, query: Any, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query, on a second try where the first met a broken connection.

        Raises:
            psycopg.OperationalError: no connection, or no answer in time.
            psycopg.Error: the query itself failed.
        """
        async with self._lock:
            try:
                return await self._fetch(query, parameters)
            except psycopg.errors.QueryCanceled:
                raise
            except psycopg.OperationalError:
                await self._drop()
                return await self._fetch(query, parameters)

    async def _fetch(self, query: Any, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            try:
                self._connection = await asyncio.wait_for(
                    psycopg.AsyncConnection.connect(self._conninfo, autocommit=True), 0.9
                )
            except (psycopg.Error, OSError, asyncio.TimeoutError) as error:
                self._reach.failed(error)
                raise psycopg.OperationalError("no connection") from None
            self._reach.works()
        watchdog = asyncio.get_running_loop().call_later(self._timeout + 0.2, cut, self._connection)
        try:
            cursor = await self._connection.execute(query, parameters)
            return await cursor.fetchall()
        finally:
            watchdog.cancel()

    async def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                await self._connection.close()
            self._connection = None

    async def close(self) -> None:
        """Close the connection."""
        await self._drop()


def cut(connection: psycopg.AsyncConnection) -> None:
    """Break a connection that does not answer, so that whoever waits for it gets an error.

    Cancelling would first ask the silent server to cancel, and wait for that.
    """
    with (
        contextlib.suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.pgconn.socket)) as doomed,
    ):
        doomed.shutdown(socket.SHUT_RDWR)
