"""Pooled connections that come back by themselves, one pool a process and address."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg_pool import ConnectionPool, PoolTimeout

from data.database import Database, NoConnection, no_connection

Result = TypeVar("Result")

# Seconds to wait for a connection. A pool gives up a failed attempt after RECONNECT seconds and
# starts afresh with the next request: with psycopg_pool's default (5 minutes, doubling pauses) a
# server that was away for a minute would stay unreachable for up to another.
WAIT = 3.0
RECONNECT = 1.0
IDLE = 60.0  # seconds after which an idle connection is closed

# Each failed attempt is a warning of the pool's, which says less than the error that follows; it is
# for those who have set up logging, and not for everybody's screen.
logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())

_pools: dict[str, ConnectionPool] = {}
_inherited: list[ConnectionPool] = []  # after a fork: the parent's
_lock = threading.Lock()


class DatabaseUnreachable(psycopg.OperationalError):
    """No connection could be had in time; says which address, why, and what to do."""

    def __init__(self, why: NoConnection) -> None:
        self.why = why
        super().__init__(str(why))


def unreachable(settings: Database, *, serving: bool = False) -> DatabaseUnreachable:
    """The error to raise when no connection could be had.

    A pool only says that it took too long, so one more attempt is made, for its reason.
    """
    try:
        psycopg.connect(settings.conninfo(serving=serving, connect_timeout=2)).close()
    except psycopg.OperationalError as error:
        return DatabaseUnreachable(no_connection(error, settings, serving=serving))
    return exhausted(settings)


def exhausted(settings: Database) -> DatabaseUnreachable:
    """The error to raise when all connections stayed in use."""
    cause = (
        f"The database at {settings.host}:{settings.port} answers, but no connection came free "
        f"within {WAIT:g} s"
    )
    return DatabaseUnreachable(NoConnection("busy", cause, "Run the same command again.", True))


def pool(settings: Database, *, serving: bool = False, max_size: int = 8) -> ConnectionPool:
    """The process's pool for this address and role; made on first use, anew after a fork."""
    conninfo = settings.conninfo(serving=serving, application_name="streamflow feast")
    with _lock:
        if conninfo not in _pools:
            _pools[conninfo] = ConnectionPool(
                conninfo,
                kwargs={"autocommit": True},
                min_size=0,
                max_size=max_size,
                open=True,
                timeout=WAIT,
                reconnect_timeout=RECONNECT,
                max_idle=IDLE,
            )
        return _pools[conninfo]


def read(
    settings: Database, work: Callable[[psycopg.Connection], Result], *, serving: bool = False
) -> Result:
    """Run `work`, which only reads, on a pooled connection; once more if the connection was lost.

    Raises:
        DatabaseUnreachable: the server does not answer within WAIT seconds.
    """
    connections = pool(settings, serving=serving)
    try:
        try:
            with connections.connection() as connection:
                return work(connection)
        except psycopg.OperationalError as lost:
            if isinstance(lost, PoolTimeout):
                raise
            connections.check()  # after a server restart every idle connection is dead
            with connections.connection() as connection:
                return work(connection)
    except PoolTimeout:
        raise unreachable(settings, serving=serving) from None


@contextmanager
def transaction(settings: Database, name: str) -> Iterator[psycopg.Connection]:
    """A transaction as the owner on a pooled connection that was found alive.

    `name` is its application_name. When this process is killed, the server notices and rolls back
    while it still executes a statement.

    Raises:
        DatabaseUnreachable: the server does not answer within WAIT seconds.
    """
    connections = pool(settings)
    begin = (
        "select set_config('application_name', %s, true),"
        " set_config('client_connection_check_interval', '1s', true)"
    )
    try:
        with ExitStack() as stack:
            try:
                connection = stack.enter_context(_begun(connections, begin, name))
            except psycopg.OperationalError as lost:
                if isinstance(lost, PoolTimeout):
                    raise
                connections.check()
                connection = stack.enter_context(_begun(connections, begin, name))
            yield connection
    except PoolTimeout:
        raise unreachable(settings) from None


@contextmanager
def _begun(connections: ConnectionPool, begin: str, name: str) -> Iterator[psycopg.Connection]:
    with connections.connection() as connection, connection.transaction():
        connection.execute(begin, [name])
        yield connection


def scalar(
    connection: psycopg.Connection, query: str | sql.Composed, parameters: Any = None
) -> Any:
    """The one value of a query that always gives one row."""
    row = connection.execute(query, parameters).fetchone()
    assert row is not None
    return row[0]


@atexit.register
def close_pools() -> None:
    """Close this process's pools; they open again when needed."""
    with _lock:
        while _pools:
            _pools.popitem()[1].close()


def _after_fork() -> None:
    """A child must not use its parent's sockets, nor close them, nor wait for its threads."""
    global _lock
    _lock = threading.Lock()
    _inherited.extend(_pools.values())
    _pools.clear()


os.register_at_fork(after_in_child=_after_fork)
