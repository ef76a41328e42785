"""The one way an error reaches a person: its kind, its cause, and what to do next.

`command` wraps the `main` of every command line. `--debug` there, or STREAMFLOW_DEBUG=1, shows the
traceback as well.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg
from pydantic import ValidationError

from data.database import Database, no_connection
from data.paths import ROOT

DEBUG = "STREAMFLOW_DEBUG"
OURS = ("data.", "streamflow_feast.", "orchestration.", "serving.", "feast.errors")


class Trouble(NamedTuple):
    """What went wrong, for a person. `transient` says that the same may work in a moment."""

    kind: str
    cause: str
    remedy: str  # a sentence; empty where the cause says it
    transient: bool = False

    def __str__(self) -> str:
        return f"{self.cause}. {self.remedy}" if self.remedy else self.cause


AGAIN = "Run the same command again."
# SQLSTATE, or the class that it begins with -> kind, what it means, what helps, whether to retry.
SQLSTATES = {
    "08": ("lost", "the connection to the database was lost", AGAIN, True),
    "40001": ("conflict", "another transaction was in the way", AGAIN, True),
    "40P01": ("deadlock", "another transaction and this one waited for each other", AGAIN, True),
    "42501": ("permission", "the database's role lacks a right", "Its administrator grants it.",
              False),
    "25006": ("read-only", "the database takes no changes: is it a standby?",
              "Set STREAMFLOW_PG_HOST to the one that does.", False),
    "53100": ("disk full", "the disk of the database is full",
              "Make room there, then run the same command again.", False),
    "53200": ("memory", "the database has no memory left",
              "Lower its work_mem or give it more, then run the same command again.", False),
    "53300": ("busy", "the database has no connection to spare",
              "Close some, or raise its max_connections; then run the same command again.", True),
    "53400": ("limit", "a limit set in the database was reached",
              "Raise it, then run the same command again.", False),
    "54": ("limit", "a limit of the database was exceeded", "", False),
    "55P03": ("locked", "a lock did not come free in time", AGAIN, True),
    "57014": ("cancelled", "the query was cancelled: by somebody, or by a time limit",
              "Find out why; then run the same command again.", False),
    "57P": ("lost", "the database went away or is starting", AGAIN, True),
    "58": ("disk", "the database cannot read or write its files", "See its log.", False),
    "XX001": ("damage", "the database's files are damaged", "See its log.", False),
    "42P01": ("missing", "the database lacks a table",
              "`make up` makes the schemas, `make build apply` the tables.", False),
    "42703": ("missing", "the database lacks a column",
              "`make up` adds the contract's, `make build apply` the models'.", False),
    "3F000": ("missing", "the database lacks a schema", "`make up` makes it.", False),
}  # fmt: skip
# The same where only a text is left, as of dbt; in the server's own words.
SAID = {
    "deadlock detected": "40P01",
    "could not serialize access": "40001",
    "no space left on device": "53100",
    "out of memory": "53200",
    "canceling statement due to lock timeout": "55P03",
    "canceling statement due to": "57014",
    "terminating connection due to": "57P01",
    "server closed the connection unexpectedly": "08006",
    "connection has been closed unexpectedly": "08006",
    "permission denied": "42501",
    "read-only transaction": "25006",
}  # fmt: skip


def trouble(error: BaseException, settings: Database | None = None) -> Trouble:
    """What an exception means. The kind of one that nobody foresaw is `defect`."""
    if isinstance(error, psycopg.Error):
        return _database(error, settings)
    if isinstance(error, ValidationError):
        return _settings(error)
    if isinstance(error, OSError) and not type(error).__module__.startswith(OURS):
        return _file(error)
    if type(error).__module__.startswith(OURS) or type(error).__module__ == "__main__":
        retry = bool(getattr(error, "transient", False))
        return Trouble("refused", str(error), "", retry)
    if type(error).__module__.startswith("redis"):
        lost = type(error).__name__ in ("ConnectionError", "TimeoutError", "BusyLoadingError")
        remedy = "Is Redis up, and at the connection_string of feature_store.redis.yaml?"
        return Trouble("redis", f"Redis: {error}", remedy, lost)
    said = " ".join(str(error).split())[:500]
    where = f" ({place})" if (place := _place(error)) else ""
    traced = "With --debug the same command shows the traceback"
    if type(error) is ValueError:  # Feast's, too, has words for people
        return Trouble("refused", f"{said}{where}", traced)
    return Trouble("defect", f"internal error, {type(error).__name__}: {said}{where}", traced)


def of_text(text: str, settings: Database | None = None) -> Trouble | None:
    """What an error means of which only the text is left (dbt's); None when it is none of these."""
    lower = text.lower()
    if "sessionhivemetastoreclient" in lower or "another instance of derby" in lower:
        what = "the catalog of the lake does not open: another process that uses Spark has it"
        return Trouble("busy", what, "When that one has ended: run the same command again.", True)
    if state := next((state for part, state in SAID.items() if part in lower), None):
        return _of_state(state, " ".join(text.split()))
    if "connection to server" in lower or "could not connect" in lower:
        return Trouble(*no_connection(text, settings or Database()))
    return None


def _of_state(state: str, said: str) -> Trouble | None:
    """By the longest beginning of the SQLSTATE that is known."""
    found = next((state[:n] for n in (5, 3, 2) if state[:n] in SQLSTATES), None)
    if found is None:
        return None
    kind, meaning, remedy, transient = SQLSTATES[found]
    return Trouble(kind, f"{meaning} ({said})", remedy, transient)


def _database(error: psycopg.Error, settings: Database | None) -> Trouble:
    said = " ".join(str(error).split()) or type(error).__name__
    if why := getattr(error, "why", None):  # streamflow_feast.connections has found out already
        return Trouble(*why)
    if error.sqlstate:
        known = _of_state(error.sqlstate, said)
        return known or Trouble("database", f"the database refused this ({said})", "")
    if found := of_text(said, settings):
        return found
    if isinstance(error, psycopg.OperationalError):
        return Trouble(*no_connection(error, settings or Database()))
    return Trouble("database", f"the database's driver refused this ({said})", "")


def _file(error: OSError) -> Trouble:
    name = f" {error.filename}" if error.filename else ""
    said = f"{error.strerror or error}{':' if name else ''}{name}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Trouble("disk full", said, "Make room there, then run the same command again.")
    if isinstance(error, ConnectionError | TimeoutError):
        return Trouble("lost", said, AGAIN, True)
    return Trouble("file", said, "")


def _settings(error: ValidationError) -> Trouble:
    """A variable of the environment that cannot be read as what it should be."""
    prefix = {"Database": "STREAMFLOW_PG_", "Settings": "STREAMFLOW_API_"}.get(error.title)
    if prefix is None:
        return Trouble("refused", str(error), "")
    wrong = [
        f"{prefix}{'_'.join(map(str, one['loc'])).upper()}: {one['msg']}" for one in error.errors()
    ]
    return Trouble("settings", "; ".join(wrong), "Correct it in the environment.")


def _place(error: BaseException) -> str:
    """The innermost line of ours that the error passed."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT) and "site-packages" not in path.parts:
            return f"{path.relative_to(ROOT)}:{frame.lineno}"
    return ""


def command(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Make a `main(arguments)` tell its errors in words and return 1, or 130 when interrupted."""

    @functools.wraps(main)
    def told(arguments: Sequence[str] | None = None) -> int:
        given = list(sys.argv[1:] if arguments is None else arguments)
        options = given[: given.index("--")] if "--" in given else given
        debug = "--debug" in options
        if debug:
            given.remove("--debug")
        with _debugging(debug):
            # Says each failed attempt, in several lines; what comes of them is said below.
            logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
            try:
                return main(given)
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
                return 130
            except Exception as error:
                show(error)
                return 1

    return told


def show(error: BaseException, instead: object = None) -> None:
    """Print an error for a person on stderr: `instead`, where there are better words for it."""
    if os.environ.get(DEBUG):
        traceback.print_exception(type(error), error, error.__traceback__)
    print(trouble(error) if instead is None else instead, file=sys.stderr)


@contextmanager
def _debugging(on: bool) -> Iterator[None]:
    """In the environment, so that what this command starts knows it too."""
    before = os.environ.get(DEBUG)
    if on:
        os.environ[DEBUG] = "1"
    try:
        yield
    finally:
        if on and before is None:
            del os.environ[DEBUG]
