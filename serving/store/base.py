"""What every online store offers to the rest of the API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import psycopg

from serving.catalogue import Row, Service
from serving.problems import Problem

# Values for each of a service's keys, in their order; all of one length.
KeyColumns = Sequence[Sequence[object]]


class Store(Protocol):
    """Where features are read from."""

    @property
    def up(self) -> bool:
        """Whether reads have a chance."""

    async def read(self, service: Service, keys: KeyColumns) -> list[Row]:
        """A row for each place of `keys`, in the order asked.

        Raises:
            Problem: 503, not later than the timeout.
            MismatchError: a table or column of the service does not exist.
        """

    async def start(self) -> None:
        """Connect; without success after the timeout, go on trying in the background."""

    async def stop(self) -> None:
        """Close all connections."""


class MismatchError(Exception):
    """The store does not have what the registry says. The text is the store's own."""

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__(str(error))
        self.error = error


def unavailable() -> Problem:
    """The answer while the store cannot be read."""
    return Problem(503, "store-unavailable", "The online store cannot be read at the moment.")


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for their end.

    Again and again: until Python 3.12, `asyncio.wait_for` can swallow a cancellation.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.1)
