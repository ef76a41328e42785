"""Whether the database can be reached, as last seen, and how that is told: logs and answers."""

from __future__ import annotations

import logging

from data.database import Database, NoConnection, no_connection
from serving.problems import Problem

log = logging.getLogger("serving.store")

# Why there is no connection -> what anybody may be told: no name of a host or role, and nothing of
# libpq's text. That is for the log.
TOLD = {
    "down": "The database does not answer.",
    "starting": "The database is starting or stopping.",
    "busy": "The database has no connection to spare.",
    "host": "The database's host is not known here. Set STREAMFLOW_PG_HOST to where it is.",
    "foreign": "What listens at the database's address is no Postgres. Set STREAMFLOW_PG_HOST and "
    "_PORT.",
    "ssl": "The database and STREAMFLOW_PG_SSLMODE do not go together.",
    "database": "The server has no database of that name. Make it with: make up, or set "
    "STREAMFLOW_PG_DATABASE",
    "login": "The database does not let the API's role in. Set STREAMFLOW_PG_SERVING_PASSWORD to "
    "its password here, or set the role's to this one with: make up",
    "access": "The database does not take the API's role from here (pg_hba.conf, grant connect).",
}


class Reach:
    """What the last attempts to connect said. A change of state is one line in the log."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.why: NoConnection | None = None

    def failed(self, error: BaseException) -> None:
        """An attempt failed: a warning, unless it was the same the last time."""
        said = str(error) or "connection timeout expired"  # asyncio's own has no text
        why = no_connection(said, self._database, serving=True)
        if self.why is None or self.why.kind != why.kind:
            log.warning("no connection to the database: %s", why)
        self.why = why

    def works(self) -> None:
        """An attempt succeeded."""
        if self.why is not None:
            log.info("connected to the database again")
        self.why = None

    def problem(self) -> Problem:
        """The answer while there is no connection."""
        why = self.why.kind if self.why else "other"
        detail = TOLD.get(why, "The database did not answer in time.")
        if why in ("login", "access"):
            return Problem(503, "login-refused", detail)
        if why == "database":
            return Problem(503, "no-database", detail)
        return Problem(503, "store-unavailable", detail)
