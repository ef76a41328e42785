"""Reads from the online store: fast ones for features, plain ones for everything else.

A lane is one connection. It takes all reads of a service that wait, from however many requests,
and sends them as one statement; while that runs, the next ones gather. So the number of
connections is fixed, and a busy process sends fewer, larger statements rather than more of them.
Every read has its own deadline, whatever happens to its lane.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from itertools import chain

import psycopg
from psycopg.types.numeric import Int8BinaryLoader

from data.database import Database
from serving.catalogue import Row, Service
from serving.problems import Problem
from serving.store.base import KeyColumns, MismatchError, end, unavailable
from serving.store.link import cut
from serving.store.reach import Reach
from streamflow_feast.kinds import register_json

log = logging.getLogger("serving.store")

LARGEST_STATEMENT = 256  # rows of several requests that share a statement
RECONNECT_EVERY = 0.2  # seconds
# One look-up by primary key a user and view, planned once. A plan made for a small or
# never-analysed table would scan it, and stay when the table has grown.
READ_OPTIONS = (
    "-c plan_cache_mode=force_generic_plan -c enable_hashjoin=off -c enable_mergejoin=off "
    "-c enable_seqscan=off -c enable_bitmapscan=off -c jit=off -c max_parallel_workers_per_gather=0"
)


class _Read:
    __slots__ = ("future", "keys", "rows", "service")

    def __init__(self, service: Service, keys: KeyColumns, future: asyncio.Future) -> None:
        self.service, self.keys, self.future = service, keys, future
        self.rows = len(keys[0])


class PostgresStore:
    """The project's online store: typed rows in schema `online`, read as the serving role."""

    def __init__(
        self, database: Database, reach: Reach, connections: int, waiting: int, timeout: float
    ) -> None:
        self._reach = reach
        self._conninfo = database.conninfo(
            serving=True,
            application_name="streamflow-serving",
            options=f"{READ_OPTIONS} -c statement_timeout={int(timeout * 1000)}",
        )
        self._connections, self._most_waiting, self._timeout = connections, waiting, timeout
        self._waiting: deque[_Read] = deque()
        self._wake = asyncio.Event()
        self._first = asyncio.Event()  # a connection was made
        self._lanes: list[asyncio.Task[None]] = []
        self._connected = 0

    @property
    def up(self) -> bool:
        """Whether a connection stands."""
        return self._connected > 0

    async def start(self) -> None:
        self._lanes = [asyncio.create_task(self._lane()) for _ in range(self._connections)]
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._first.wait(), self._timeout)

    async def stop(self) -> None:
        await end(self._lanes)
        self._fail_waiting()

    async def read(self, service: Service, keys: KeyColumns) -> list[Row]:
        if not self._connected:
            raise unavailable()
        if len(self._waiting) >= self._most_waiting:
            raise Problem(503, "overloaded", "Too many reads are waiting; ask again shortly.")
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append(_Read(service, keys, future))
        self._wake.set()
        deadline = loop.call_later(self._timeout, _expire, future)
        try:
            return await future
        finally:
            deadline.cancel()

    async def _lane(self) -> None:
        while True:
            try:
                connection = await self._connect()
            except (psycopg.Error, OSError, asyncio.TimeoutError) as error:
                if not self._connected:
                    self._fail_waiting()
                self._reach.failed(error)
                await asyncio.sleep(RECONNECT_EVERY)
                continue
            self._connected += 1
            self._reach.works()
            self._first.set()
            log.info("connected to the online store")
            try:
                while True:
                    await self._serve(connection)
            except psycopg.Error as error:
                log.warning("connection given up: %s", type(error).__name__)
            except Exception:  # a defect must not end the lane; its reads run into their deadline
                log.exception("connection given up")
            finally:
                self._connected -= 1
                with contextlib.suppress(psycopg.Error):
                    await connection.close()

    async def _connect(self) -> psycopg.AsyncConnection:
        connection = await asyncio.wait_for(
            psycopg.AsyncConnection.connect(self._conninfo, autocommit=True, prepare_threshold=0),
            self._timeout,
        )
        # timestamptz travels as microseconds since 2000: an integer that needs no decoding here
        connection.adapters.register_loader("timestamptz", Int8BinaryLoader)
        register_json(connection.adapters)
        return connection

    async def _serve(self, connection: psycopg.AsyncConnection) -> None:
        """Send one statement for the reads that wait.

        Raises:
            psycopg.Error: the connection is of no further use.
        """
        while not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        reads = self._take()
        if not reads:
            return
        keys = [list(chain.from_iterable(of)) for of in zip(*[r.keys for r in reads], strict=True)]
        # The server's own time limit comes first, but not from a server or network that hangs.
        watchdog = asyncio.get_running_loop().call_later(self._timeout + 0.1, cut, connection)
        try:
            cursor = await connection.cursor(binary=True).execute(reads[0].service.statement, keys)
            rows = await cursor.fetchall()
        except psycopg.errors.QueryCanceled:
            for read in reads:
                _expire(read.future)
            return
        except (psycopg.OperationalError, psycopg.InterfaceError):
            # The connection broke, perhaps long ago: ask again on a new one while time is left.
            self._waiting.extendleft(reversed(reads))
            raise
        except psycopg.Error as error:
            for read in reads:
                _fail(read.future, MismatchError(error))
            # A statement prepared before a column changed its type would fail for ever.
            await connection.execute("deallocate all")
            return
        finally:
            watchdog.cancel()
        start = 0
        for read in reads:
            beyond = start + read.rows
            if not read.future.done():
                read.future.set_result(rows[start:beyond])
            start = beyond

    def _take(self) -> list[_Read]:
        """The reads at the head of the queue that share a service and may share a statement."""
        taken: list[_Read] = []
        rows = 0
        while self._waiting:
            head = self._waiting[0]
            if not head.future.done():  # else its deadline has passed, or its client left
                if taken and head.service is not taken[0].service:
                    break
                rows += head.rows
                if taken and rows > LARGEST_STATEMENT:
                    break
                taken.append(head)
            self._waiting.popleft()
        return taken

    def _fail_waiting(self) -> None:
        while self._waiting:
            _expire(self._waiting.popleft().future)


def _expire(future: asyncio.Future) -> None:
    _fail(future, unavailable())


def _fail(future: asyncio.Future, error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
