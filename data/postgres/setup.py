"""Everything in the database that exists before the first drop: schemas, ledger, tables, roles."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import psycopg
from psycopg import sql

from data.contract import Table, declared
from data.database import Database, no_connection
from data.postgres.migrate import migrate
from data.postgres.raw_tables import keep_up
from data.postgres.roles import have_roles

SET_UP_LOCK = 7_301_001  # advisory lock; any constant that nobody else uses


class SetUpError(RuntimeError):
    """The database could not be set up; the text says what its administrator has to do."""


def set_up(settings: Database, tables: Sequence[Table] | None = None) -> None:
    """Create what is missing: schemas, ledger, roles, raw tables and their indexes.

    Brings the schema to this release, the raw tables to their declaration, and the serving role's
    password to that of the settings; changes nothing else. Two at once wait for each other.

    Raises:
        SetUpError: the owner lacks a right that this needs.
        MigrationError: the database is of a later release.
        RolesError: the roles were asked for, and the owner may not make them.
        RawTableError: a raw table does not fit its declaration.
    """
    with settings.connect() as connection:
        connection.execute("select pg_advisory_xact_lock(%s)", [SET_UP_LOCK])
        connection.execute("set local client_min_messages = warning")
        _serving_role(connection, settings)
        try:
            migrate(connection)
        except psycopg.errors.InsufficientPrivilege as error:
            raise SetUpError(
                f"{settings.user!r} may not set up the database {settings.database!r} ({error}). "
                f'Let its administrator run: grant create on database "{settings.database}" to '
                f'"{settings.user}"; or make it the owner of what is there'
            ) from error
        keep_up(connection, declared() if tables is None else tables)
        have_roles(connection, settings)


def _serving_role(connection: psycopg.Connection, settings: Database) -> None:
    """Have the API's role, with the password of the settings.

    The server gets a verifier, which keeps the password out of its log.
    """
    role = settings.serving_user
    settings.conninfo(serving=True)  # refuses a default password where others could use it
    verifier = connection.pgconn.encrypt_password(
        settings.serving_password.get_secret_value().encode(), role.encode(), b"scram-sha-256"
    ).decode()
    known = "select 1 from pg_roles where rolname = %s"
    for last in (*[False] * 9, True):
        verb = "alter" if connection.execute(known, [role]).fetchone() else "create"
        statement = sql.SQL(f"{verb} role {{}} login password {{}}")
        try:
            with connection.transaction():
                connection.execute(statement.format(sql.Identifier(role), sql.Literal(verifier)))
            return
        except psycopg.errors.InsufficientPrivilege as error:
            if verb == "alter" and _lets_in(settings):
                return  # somebody else's role, and its password is this one
            raise SetUpError(
                f"{settings.user!r} may not {verb} the API's role {role!r} ({error}). Let an "
                f'administrator run: {verb} role "{role}" login password ... with the password of '
                "STREAMFLOW_PG_SERVING_PASSWORD, then run this again"
            ) from error
        except (
            psycopg.errors.DuplicateObject,
            psycopg.errors.UniqueViolation,
            psycopg.errors.InternalError_,  # "tuple concurrently updated"
        ):
            if last:  # another database's set-up of the same role got in between, every time
                raise
            time.sleep(0.05 + 0.1 * random.random())


def _lets_in(settings: Database) -> bool:
    """Whether the serving role exists with the password of the settings."""
    try:
        psycopg.connect(settings.conninfo(serving=True)).close()
    except psycopg.OperationalError as error:
        return no_connection(error, settings, serving=True).kind != "login"
    return True
