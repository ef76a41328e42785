"""Where the database is: every connection setting, once, with its default.

Production sets the environment variables; dbt's `profiles.yml` reads the same names.
"""

from __future__ import annotations

import ipaddress
import os
import re
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import psycopg
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

import data.secret_files  # noqa: F401  (sets the passwords that are given by file)

# libpq sends it after `options`, so that it would win over the time zone that conninfo asks for.
os.environ["PGTZ"] = "UTC"


# What works with the database in steps, each as a role of its own (data/postgres/roles.py).
STEP_ROLES = ("loader", "builder", "materializer", "trainer", "auditor")


class SettingsError(ValueError):
    """The settings must not be used like this; the text says why and what to change."""


class Database(BaseSettings):
    """Connection settings, read from `STREAMFLOW_PG_*` when constructed."""

    model_config = SettingsConfigDict(env_prefix="STREAMFLOW_PG_")

    host: str = "127.0.0.1"
    port: int = 15432
    database: str = "streamflow"
    user: str = "streamflow"
    password: SecretStr = SecretStr("streamflow")
    sslmode: str = "prefer"
    serving_user: str = "streamflow_serving"
    serving_password: SecretStr = SecretStr("streamflow_serving")
    roles: bool = False  # each step takes on a role with no more rights than it needs
    role: str = ""  # taken on by every session that is not serving's
    steps_user: str = "streamflow_steps"  # the login of the steps, made where it has a password
    steps_password: SecretStr = SecretStr("")

    def conninfo(self, *, serving: bool = False, **more: Any) -> str:
        """libpq connection string, as the owner or as the read-only serving role.

        `more` are further libpq keywords, for example `application_name` or `connect_timeout`.
        Every session runs in UTC.

        Raises:
            SettingsError: the password is the default, which anybody can read here, and the host
                is one that others may reach.
        """
        name = "serving_" if serving else ""
        user, password = getattr(self, f"{name}user"), getattr(self, f"{name}password")
        if password == type(self).model_fields[f"{name}password"].default and not self.is_local():
            raise SettingsError(
                f"refusing to use the public default password of {user!r} on {self.host}, which is "
                f"not this machine alone: set STREAMFLOW_PG_{name.upper()}PASSWORD to a secret"
            )
        role = f"-c role={self.role} " if self.role and not serving else ""
        options = f"-c TimeZone=UTC {role}{more.pop('options', '')}".strip()
        return psycopg.conninfo.make_conninfo(
            host=self.host,
            port=self.port,
            dbname=self.database,
            user=user,
            password=password.get_secret_value(),
            sslmode=self.sslmode,
            options=options,
            **more,
        )

    def is_local(self) -> bool:
        """Whether the server can be on this machine only: a loopback address or a Unix socket."""
        return all(
            host.startswith("/") or is_loopback(host)
            for host in map(str.strip, self.host.split(","))
        )

    def connect(self, **more: Any) -> psycopg.Connection:
        """One connection as the owner; a transaction opens with the first statement."""
        return psycopg.connect(self.conninfo(**more))


@lru_cache(maxsize=256)  # the API asks for every request, about the same few names
def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


Kind = Literal[
    "down", "host", "foreign", "starting", "busy", "login", "database", "ssl", "access", "other"
]

# What libpq and the server say, as far as it decides what helps; the first that is found counts.
_SAID: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("foreign", ("invalid response", "unsupported frontend protocol", "expected authentication")),
    ("ssl", ("ssl", "certificate")),
    ("login", ("password", "sasl", "scram", "is not permitted to log in")),
    ("access", ("pg_hba.conf", "permission denied for database", "not currently accepting")),
    ("busy", ("too many clients", "too many connections", "remaining connection slots")),
    ("starting", ("starting up", "shutting down", "recovery mode", "not yet accepting")),
    ("host", ("could not translate host name", "resolve host", "name or service not known")),
    ("down", ("refused", "timeout", "timed out", "no such file", "unreachable", "no route to")),
    ("down", ("closed the connection", "connection reset", "connection is bad")),
)


class NoConnection(NamedTuple):
    """Why there is no connection. `cause` has libpq's own text, which holds no password;
    `remedy` is what to do next; `transient` says that the same may work in a moment."""

    kind: Kind
    cause: str
    remedy: str
    transient: bool

    def __str__(self) -> str:
        return f"{self.cause}. {self.remedy}"


def no_connection(
    error: BaseException | str, settings: Database, *, serving: bool = False
) -> NoConnection:
    """Tell apart why an attempt to connect failed, by the error or its text (psycopg's or dbt's).

    libpq reports no code for a failed attempt, so that its text is all there is to go by.
    """
    said = _libpq_text(str(error))
    lower = said.lower()
    found = (kind for kind, parts in _SAID if any(part in lower for part in parts))
    kind: Kind = next(found, "other")
    if kind in ("other", "access") and "does not exist" in lower:
        kind = "database" if "database " in lower else "login"
    role = settings.serving_user if serving else settings.user
    name = "STREAMFLOW_PG_SERVING" if serving else "STREAMFLOW_PG"
    server = f"the database server at {settings.host}:{settings.port}"
    cause, remedy = {
        "down": (
            f"The database at {settings.host}:{settings.port} does not answer",
            "Start it with `make up`, or set STREAMFLOW_PG_HOST and STREAMFLOW_PG_PORT to where "
            "it is.",
        ),
        "host": (
            f"There is no host {settings.host}",
            "Set STREAMFLOW_PG_HOST to where the database is.",
        ),
        "foreign": (
            f"What listens at {settings.host}:{settings.port} is no Postgres",
            "Set STREAMFLOW_PG_HOST and STREAMFLOW_PG_PORT to where the database is.",
        ),
        "starting": (f"{server} is starting or stopping", "Run the same command again shortly."),
        "busy": (
            f"{server} has no connection to spare",
            "Close some, or raise its max_connections; then run the same command again.",
        ),
        "login": (
            f"{server} answers, and does not let {role!r} in",
            f"Set {name}_USER and {name}_PASSWORD to a role of that server and its password.",
        ),
        "database": (
            f"{server} answers, and has no database {settings.database!r}",
            "Set STREAMFLOW_PG_DATABASE to one that it has, or make this one: `make up` does on "
            "this machine, `create database` elsewhere.",
        ),
        "ssl": (
            f"{server} and STREAMFLOW_PG_SSLMODE={settings.sslmode} do not go together",
            "Set STREAMFLOW_PG_SSLMODE=prefer for a server without SSL; verify-ca and verify-full "
            "also need the certificate of its authority (PGSSLROOTCERT).",
        ),
        "access": (
            f"{server} answers, and does not take {role!r} from here into {settings.database!r}",
            "Its administrator allows that (pg_hba.conf, `grant connect on database`).",
        ),
        "other": (
            f"No connection to {server}",
            "Check STREAMFLOW_PG_HOST, _PORT, _DATABASE, _USER, _PASSWORD and _SSLMODE.",
        ),
    }[kind]
    cause = cause[0].upper() + cause[1:] + (f" ({said})" if said else "")
    return NoConnection(kind, cause, remedy, kind in ("down", "starting", "busy"))


def _libpq_text(text: str) -> str:
    """What was said, once, without the address that each line of libpq repeats."""
    lines = (
        re.sub(
            r"^.*?connection to server (at|on) .*? failed: |^connection (failed|is bad): ", "", x
        )
        for x in map(str.strip, text.splitlines())
    )
    wanted = (" ".join(line.split()) for line in lines if line and not line.startswith("Is the "))
    return "; ".join(dict.fromkeys(wanted))
