"""Everything in the database that exists before the first drop: schemas, ledger, raw tables."""

from __future__ import annotations

from pathlib import Path

from psycopg import sql

from data.contract import TABLES, Table
from data.database import Database

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


def set_up(settings: Database, tables: tuple[Table, ...] = TABLES) -> None:
    """Create what is missing: schemas, ledger, serving role, raw tables and their indexes.

    Changes nothing that exists, except that a column added to the contract is added to its table.
    Two at once wait for each other.
    """
    schema = (Path(__file__).parent / "schema.sql").read_text()
    with settings.connect() as connection:
        connection.execute("select pg_advisory_xact_lock(%s)", [SET_UP_LOCK])
        connection.execute("set local client_min_messages = warning")
        connection.execute(
            sql.SQL(schema).format(
                serving_user=sql.Identifier(settings.serving_user),
                serving_user_literal=sql.Literal(settings.serving_user),
                serving_password=sql.Literal(settings.serving_password.get_secret_value()),
            )
        )
        for table in tables:
            for statement in _raw_table(table):
                connection.execute(statement)


def _raw_table(table: Table) -> list[sql.Composable]:
    """DDL of one raw table, its later columns, indexes and comments."""
    name = sql.Identifier("raw", table.name)
    columns = [
        sql.SQL("{} {} {}").format(
            sql.Identifier(column.name),
            sql.SQL(column.type.sql),
            sql.SQL("" if column.nullable or column.optional else "not null"),
        )
        for column in table.columns
    ]
    columns += [
        sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(definition))
        for column, (definition, _) in BOOKKEEPING.items()
    ]
    key = sql.Identifier(table.key)
    statements: list[sql.Composable] = [
        sql.SQL(
            "create table if not exists {} ({}, primary key ({}, as_of, load_id))"
        ).format(name, sql.SQL(", ").join(columns), key)
    ]
    for column, definition in zip(table.columns, columns, strict=False):
        if column.optional:
            statements.append(
                sql.SQL("alter table {} add column if not exists {}").format(name, definition)
            )
    time = sql.Identifier(table.event_time or "as_of")
    indexes = {
        "user": sql.SQL("(user_id, {})").format(time),
        "load": sql.SQL("(load_id)"),  # what arrived since a load
        "superseded": sql.SQL("(superseded_by) where superseded_by is not null"),
        "as_of": sql.SQL("using brin (as_of)"),  # the rows of one drop
    }
    for suffix, definition in indexes.items():
        on = sql.SQL(" on {} " if suffix == "as_of" else " on {} using btree ").format(name)
        index = sql.Identifier(f"{table.name}_{suffix}")
        statements.append(sql.SQL("create index if not exists ") + index + on + definition)
    comments = {column.name: column.meaning for column in table.columns}
    comments |= {column: meaning for column, (_, meaning) in BOOKKEEPING.items()}
    statements.append(sql.SQL("comment on table {} is {}").format(name, table.meaning))
    statements += [
        sql.SQL("comment on column {} is {}").format(
            sql.Identifier("raw", table.name, column), meaning
        )
        for column, meaning in comments.items()
    ]
    return statements
