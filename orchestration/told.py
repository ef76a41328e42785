"""How a step says what it does, and what went wrong: one line, with the command to run next."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from data import errors
from data.database import Database
from orchestration.advice import here
from orchestration.surroundings import environment


class StepError(RuntimeError):
    """A step failed. `repair` is the command to run next; `transient` says a retry may help."""

    def __init__(self, step: str, what: str, repair: str, *, transient: bool = False) -> None:
        self.step, self.what, self.repair, self.transient = step, what, here(repair), transient
        super().__init__(f"{step}: {one_line(here(what))} | then run: {self.repair}")


def say(line: str) -> None:
    """Print a line in one piece, at once: dbt's threads report side by side."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def one_line(text: object, length: int = 800) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= length else f"{line[:length]} ..."


# The step -> the role that has the rights it needs (data/postgres/roles.py); dbt takes its own.
ROLE_OF = {
    "ingest": "loader",
    "apply": "materializer",
    "materialize": "materializer",
    "vector": "materializer",
    "audit": "auditor",
    "report": "auditor",
    "catalogue": "auditor",
    "lineage": "auditor",
    "skew": "auditor",
    "training-set": "trainer",
}


@contextlib.contextmanager
def acting_for(step: str) -> Iterator[None]:
    """With STREAMFLOW_PG_ROLES=on, sessions begun inside have the rights of the step's role."""
    role = ROLE_OF.get(step) if Database().roles else None
    with environment(**({"STREAMFLOW_PG_ROLE": f"streamflow_{role}"} if role else {})):
        yield


@contextlib.contextmanager
def told_as(step: str, repair: str) -> Iterator[None]:
    """Turn what can go wrong into a StepError, which says whether a retry may help.

    Bugs (KeyError and the like) keep their traceback: no command repairs those.
    """
    try:
        with acting_for(step):
            yield
    except StepError:
        raise
    except Exception as error:
        told = errors.trouble(error)
        if told.kind == "defect":
            raise
        raise StepError(
            step, str(told), repaired(told, repair), transient=told.transient
        ) from error


def repaired(told: errors.Trouble | None, repair: str) -> str:
    """The command to run next; where there is no database, after starting it."""
    return f"make up && {repair}" if told and told.kind in ("down", "lost") else repair
