"""The raw tables in Postgres, as declared: made where they are missing, and kept up with.

A relation that is there already may be somebody else's: a table that another loader fills, a view
or a foreign table. Of a table what is missing is added; a view must have what is declared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import psycopg
from psycopg import sql

from data.contract import Table

BOOKKEEPING = {
    "as_of": ("timestamp with time zone", "the drop's date, midnight UTC; null: not stamped yet"),
    "load_id": ("bigint", "the load that wrote this row, see raw.loads; null: not stamped yet"),
    "loaded_at": ("timestamp with time zone", "when it arrived here; null: not stamped yet"),
    "replaced_by": (
        "bigint",
        "the load that replaced or retracted this statement in its own drop; null: it stands",
    ),
    "superseded_by": (
        "bigint",
        "the load from which on this row is not in effect; null: it is; own load_id: it never was",
    ),
}
OF_A_VIEW = ("as_of", "load_id", "loaded_at", "superseded_by")
TABLE_KINDS = ("r", "p")
Columns = dict[str, tuple[str, bool]]  # name -> (type, may it be null)


class RawTableError(RuntimeError):
    """A raw table is not as declared and cannot be made so; the text says what to do."""


def keep_up(connection: psycopg.Connection, tables: Sequence[Table]) -> None:
    """Have every declared table, column, type and index. What is as declared is not touched, so
    that this waits for no load that is running.

    Raises:
        RawTableError: what is there does not fit the declaration.
    """
    kinds: dict[str, str] = {}
    of: dict[str, Columns] = {}
    for name, kind in connection.execute(
        "select relname, relkind::text from pg_class where relnamespace = 'raw'::regnamespace"
    ):
        kinds[name] = kind
    for relation, name, type_name, required in connection.execute(
        "select relname, attname, format_type(atttypid, atttypmod), attnotnull from pg_attribute"
        " join pg_class on pg_class.oid = attrelid"
        " where relnamespace = 'raw'::regnamespace and attnum > 0 and not attisdropped"
    ):
        of.setdefault(relation, {})[name] = (type_name, not required)
    wider: list[sql.Composed] = []
    for table in tables:
        there = of.get(table.name, {})
        if table.name not in kinds:
            _create(connection, table)
        elif kinds[table.name] not in TABLE_KINDS:
            _require_columns(table, there)
            continue
        else:
            _drop_old_key(connection, table)
            _add_columns(connection, table, there)
            _let_be_null(connection, table, there)
            wider += _wider(table, there)
        for name, index in _indexes(table).items():
            if name not in kinds:
                connection.execute(index)
    if wider:
        # The staging views stand in the way. They hold nothing; the next build makes them again.
        connection.execute("drop schema staging cascade; create schema staging")
    for statement in wider:
        connection.execute(statement)


def _run(connection: psycopg.Connection, table: Table, statement: str, *names: str) -> None:
    """Execute DDL about a table; the names take the places after it."""
    connection.execute(
        sql.SQL(statement).format(
            sql.Identifier("raw", table.name), *(sql.Identifier(name) for name in names)
        )
    )


def _definition(name: str, type_name: str, *, nullable: bool) -> sql.Composed:
    text = f"{{}} {type_name}{'' if nullable else ' not null'}"
    return sql.SQL(text).format(sql.Identifier(name))


def _create(connection: psycopg.Connection, table: Table) -> None:
    columns = [_definition(c.name, c.type.sql, nullable=c.may_be_absent) for c in table.columns] + [
        _definition(name, kind, nullable=True) for name, (kind, _) in BOOKKEEPING.items()
    ]
    name = sql.Identifier("raw", table.name)
    connection.execute(sql.SQL("create table {} ({})").format(name, sql.SQL(", ").join(columns)))
    connection.execute(sql.SQL("comment on table {} is {}").format(name, table.meaning))
    for column in table.columns:
        _comment(connection, table, column.name, column.meaning)
    for column_name, (_, meaning) in BOOKKEEPING.items():
        _comment(connection, table, column_name, meaning)


def _comment(connection: psycopg.Connection, table: Table, column: str, meaning: str) -> None:
    connection.execute(
        sql.SQL("comment on column {} is {}").format(
            sql.Identifier("raw", table.name, column), meaning
        )
    )


def _add_columns(connection: psycopg.Connection, table: Table, there: Columns) -> None:
    new = [(c.name, c.type.sql, c.may_be_absent, c.meaning) for c in table.columns]
    new += [(name, kind, True, meaning) for name, (kind, meaning) in BOOKKEEPING.items()]
    for name, kind, nullable, meaning in new:
        if name in there:
            continue
        add = sql.SQL("alter table {} add column {}").format(
            sql.Identifier("raw", table.name), _definition(name, kind, nullable=nullable)
        )
        try:
            connection.execute(add)
        except psycopg.errors.NotNullViolation:
            raise RawTableError(
                f"raw.{table.name} has rows and no column {name}, which they would need: declare "
                f"it nullable in _sources.yml, or add it to the table and fill it"
            ) from None
        _comment(connection, table, name, meaning)


def _let_be_null(connection: psycopg.Connection, table: Table, there: Columns) -> None:
    may = {column.name for column in table.columns if column.may_be_absent} | set(BOOKKEEPING)
    for name, (_, nullable) in there.items():
        if name in may and not nullable:
            _run(connection, table, "alter table {} alter column {} drop not null", name)


def _drop_old_key(connection: psycopg.Connection, table: Table) -> None:
    """The primary key of an earlier release, which let no row wait for its stamp."""
    old = connection.execute(
        "select conname from pg_constraint join pg_attribute on attrelid = conrelid"
        " and attnum = any(conkey) where conrelid = %s::regclass and contype = 'p'"
        " and attname = 'load_id'",
        [f"raw.{table.name}"],
    ).fetchone()
    if old:
        _run(connection, table, "alter table {} drop constraint {}", old[0])


def _require_columns(table: Table, there: Columns) -> None:
    """Of what is no table: it must have the columns, of types that read as those declared."""
    wanted = {column.name: column.type.sql for column in table.columns}
    wanted |= {name: BOOKKEEPING[name][0] for name in OF_A_VIEW}
    for name, kind in wanted.items():
        if name not in there:
            raise RawTableError(
                f"raw.{table.name} is a view or foreign table without the column {name} ({kind}), "
                "which _sources.yml declares or every raw table has: add it there"
            )
        if not _is(there[name][0], kind) and not _widens(there[name][0], kind):
            raise _other_type(table, name, there[name][0], kind)


def _wider(table: Table, there: Columns) -> Iterator[sql.Composed]:
    """What gives columns the declared types where these are wider than the table's."""
    for column in table.columns:
        have = there.get(column.name, (column.type.sql, True))[0]
        if _is(have, column.type.sql):
            continue
        if not _widens(have, column.type.sql):
            raise _other_type(table, column.name, have, column.type.sql)
        yield sql.SQL("alter table {} alter column {} type {}").format(
            sql.Identifier("raw", table.name),
            sql.Identifier(column.name),
            sql.SQL(column.type.sql),
        )


def _other_type(table: Table, column: str, have: str, want: str) -> RawTableError:
    return RawTableError(
        f"raw.{table.name}.{column} is {have}, and _sources.yml says {want}: a column can only "
        f"become wider. Declare {have}, or change the column there yourself"
    )


def _is(have: str, want: str) -> bool:
    return have == want or (want == "text" and have.startswith("character varying"))


def _widens(have: str, want: str) -> bool:
    """Whether every value of the one type is a value of the other."""
    if (have, want) in {
        ("smallint", "bigint"),
        ("integer", "bigint"),
        ("real", "double precision"),
    }:
        return True
    new = re.fullmatch(r"numeric\((\d+),(\d+)\)", want)
    if new is None:
        return False
    digits, scale = int(new[1]) - int(new[2]), int(new[2])
    if old := re.fullmatch(r"numeric\((\d+),(\d+)\)", have):
        return digits >= int(old[1]) - int(old[2]) and scale >= int(old[2])
    return have in ("smallint", "integer", "bigint") and digits >= 19


def _indexes(table: Table) -> dict[str, sql.Composed]:
    """Name -> what makes the index."""
    key, time = sql.SQL(", ").join(map(sql.Identifier, table.key)), table.event_time or "as_of"
    indexes = {
        "key": sql.SQL("using btree ({}, as_of, load_id)").format(key),
        "load": sql.SQL("using btree (load_id)"),  # what arrived since a load, or waits for one
        "superseded": sql.SQL("using btree (superseded_by) where superseded_by is not null"),
        "as_of": sql.SQL("using brin (as_of)"),  # the rows of one drop
    } | {
        suffix: sql.SQL("using btree ({}, {})").format(sql.Identifier(column), sql.Identifier(time))
        for suffix, column in _by_entity(table)
    }
    return {
        (name := f"{table.name}_{suffix}"[:63]): sql.SQL("create {} {} on {} {}").format(
            sql.SQL("unique index" if suffix == "key" else "index"),
            sql.Identifier(name),
            sql.Identifier("raw", table.name),
            how,
        )
        for suffix, how in indexes.items()
    }


def _by_entity(table: Table) -> Iterator[tuple[str, str]]:
    """(a name, the column) of each column that says which one of an entity a row is about."""
    named: set[str] = set()
    for column in table.columns:
        if not column.entity or (not table.is_event and column.name == table.key[0]):
            continue  # of a state the key's own index begins with it
        yield (column.name if column.entity in named else column.entity), column.name
        named.add(column.entity)
