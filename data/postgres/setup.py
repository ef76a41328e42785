"""Everything in the database that exists before the first drop: schemas, ledger, raw tables."""

from __future__ import annotations

import random
import time
from pathlib import Path

import psycopg
from psycopg import sql

from data.contract import TABLES, Table
from data.database import Database, no_connection

SET_UP_LOCK = 7_301_001  # advisory lock; any constant that nobody else uses

BOOKKEEPING = {
    "as_of": ("timestamptz not null", "the drop's date, midnight UTC"),
    "load_id": ("bigint not null", "the load that wrote this row; see raw.loads"),
    "loaded_at": ("timestamptz not null", "when it arrived here"),
    "replaced_by": (
        "bigint",
        "the load that replaced or retracted this statement in its own drop; null: it stands",
    ),
    "superseded_by": (
        "bigint",
        "the load from which on this row is not in effect; null: it is; own load_id: it never was",
    ),
}


class SetUpError(RuntimeError):
    """The database could not be set up; the text says what its administrator has to do."""


def set_up(settings: Database, tables: tuple[Table, ...] = TABLES) -> None:
    """Create what is missing: schemas, ledger, serving role, raw tables and their indexes.

    Changes nothing that exists, except that a column added to the contract is added to its table,
    and that the serving role gets the password of the settings. Two at once wait for each other.

    Raises:
        SetUpError: the owner lacks a right that this needs.
    """
    schema, ledger = (
        (Path(__file__).parent / name).read_text() for name in ("schema.sql", "ledger.sql")
    )
    with settings.connect() as connection:
        connection.execute("select pg_advisory_xact_lock(%s)", [SET_UP_LOCK])
        connection.execute("set local client_min_messages = warning")
        _serving_role(connection, settings)
        try:
            connection.execute(
                sql.SQL(schema).format(serving_user=sql.Identifier(settings.serving_user))
            )
            connection.execute(ledger)
        except psycopg.errors.InsufficientPrivilege as error:
            raise SetUpError(
                f"{settings.user!r} may not set up the database {settings.database!r} ({error}). "
                f'Let its administrator run: grant create on database "{settings.database}" to '
                f'"{settings.user}"; or make it the owner of what is there'
            ) from error
        # What exists is not touched, so that this waits for no load that is running.
        existing = {
            name
            for (name,) in connection.execute(
                "select relname from pg_class where relnamespace = 'raw'::regnamespace"
                " union all select table_name || '.' || column_name"
                " from information_schema.columns where table_schema = 'raw'"
            )
        }
        for table in tables:
            for name, statement in _raw_table(table).items():
                if name not in existing:
                    connection.execute(statement)
        _widen(connection, tables)


def _widen(connection: psycopg.Connection, tables: tuple[Table, ...]) -> None:
    """Give raw columns the contract's types where these became wider since.

    The staging views stand in the way. They hold nothing, and the next build makes them again.
    """
    types = {
        (table, column): kind
        for table, column, kind in connection.execute(
            "select relname, attname, format_type(atttypid, atttypmod) from pg_attribute"
            " join pg_class on pg_class.oid = attrelid"
            " where relnamespace = 'raw'::regnamespace and relkind = 'r' and attnum > 0"
        )
    }
    narrow = [
        sql.SQL("alter table {} alter column {} type {}").format(
            sql.Identifier("raw", table.name), sql.Identifier(column.name), sql.SQL(column.type.sql)
        )
        for table in tables
        for column in table.columns
        if column.type.sql.startswith("numeric")
        and types.get((table.name, column.name)) != column.type.sql
    ]
    if narrow:
        connection.execute("drop schema staging cascade; create schema staging")
    for statement in narrow:
        connection.execute(statement)


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


def _raw_table(table: Table) -> dict[str, sql.Composed]:
    """What makes a raw table: the table, its add-on columns and its indexes, by name."""
    name = sql.Identifier("raw", table.name)
    columns = {
        column.name: sql.SQL("{} {} {}").format(
            sql.Identifier(column.name),
            sql.SQL(column.type.sql),
            sql.SQL("" if column.nullable or column.optional else "not null"),
        )
        for column in table.columns
    }
    columns |= {
        column: sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(definition))
        for column, (definition, _) in BOOKKEEPING.items()
    }
    comments = {column.name: column.meaning for column in table.columns}
    comments |= {column: meaning for column, (_, meaning) in BOOKKEEPING.items()}
    create = [
        sql.SQL("create table {} ({}, primary key ({}, as_of, load_id))").format(
            name, sql.SQL(", ").join(columns.values()), sql.Identifier(table.key)
        ),
        sql.SQL("comment on table {} is {}").format(name, table.meaning),
    ] + [
        sql.SQL("comment on column {} is {}").format(
            sql.Identifier("raw", table.name, column), meaning
        )
        for column, meaning in comments.items()
    ]
    add_ons = {
        f"{table.name}.{column.name}": sql.SQL(
            "alter table {} add column if not exists {}"  # a new table has it already
        ).format(name, columns[column.name])
        for column in table.columns
        if column.optional
    }
    indexes = {
        "user": sql.SQL("btree (user_id, {})").format(sql.Identifier(table.event_time or "as_of")),
        "load": sql.SQL("btree (load_id)"),  # what arrived since a load
        "superseded": sql.SQL("btree (superseded_by) where superseded_by is not null"),
        "as_of": sql.SQL("brin (as_of)"),  # the rows of one drop
    }
    return (
        {table.name: sql.SQL("; ").join(create)}
        | add_ons
        | {
            f"{table.name}_{suffix}": sql.SQL("create index {} on {} using {}").format(
                sql.Identifier(f"{table.name}_{suffix}"), name, index
            )
            for suffix, index in indexes.items()
        }
    )
