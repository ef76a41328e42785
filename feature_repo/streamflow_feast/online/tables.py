"""The tables of the online store: made, widened, narrowed and dropped as the definitions change.

Every change of a table also writes a row of zeros to `ledger.materializations`, which tells the
engine that the table's content is no longer what the last materialization left: the next one
fills it anew. All of it is one transaction under the lock that materializations hold.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import psycopg
from psycopg import sql

from streamflow_feast.connections import scalar
from streamflow_feast.dbt.types import digits
from streamflow_feast.kinds import kind_of
from streamflow_feast.tables import View, identifiers

logger = logging.getLogger(__name__)

STORE = "postgres"  # the name of this store in the ledger
# Held, to the end of the transaction, by whatever changes the online store.
LOCK = "select pg_advisory_xact_lock(hashtext('streamflow online store'))"
TRY_LOCK = "select pg_try_advisory_xact_lock(hashtext('streamflow online store'))"

PUSHED_AT = "pushed_at timestamptz"  # null: published

# Postgres converts these without loss, so the rows stay and are right at once.
WIDER = {
    ("integer", "bigint"),
    ("real", "double precision"),
    ("integer", "double precision"),
}


def is_wider(old: str, new: str) -> bool:
    """Whether every value of the type `old` is one of `new`, so that the rows can stay."""
    before, after = digits(old), digits(new)
    if before and after:
        return after[1] >= before[1] and after[0] - after[1] >= before[0] - before[1]
    return (old, new) in WIDER


def reconcile(connection: psycopg.Connection, views: Sequence[View]) -> list[str]:
    """Make the online tables of `views` match them; what was done, one line each.

    Rows stay, unless the join keys change; a new column is null until the next materialization.
    """
    connection.execute(LOCK)
    done = []
    for view in views:
        there = _columns(connection, view.name)
        if there is not None and key_types(connection, view.name) != view.keys:
            done.append(f"online.{view.name}: dropped, as its join keys are others now")
            connection.execute(sql.SQL("drop table {}").format(view.table))
            there = None
        if there is None:
            connection.execute(_create(view))
            forget(connection, view.name, STORE, emptied=True)
            done.append(f"online.{view.name}: created")
        elif lines := _alter(connection, view, there):
            forget(connection, view.name, STORE)
            done += lines
    return done


def drop(connection: psycopg.Connection, name: str) -> str:
    """Drop the online table of the view `name`; what was lost, for the user to read, or ""."""
    connection.execute(LOCK)
    if _columns(connection, name) is None:
        return ""
    table = sql.Identifier("online", name)
    rows = scalar(connection, sql.SQL("select count(*) from {}").format(table))
    connection.execute(sql.SQL("drop table {}").format(table))
    forget(connection, name, STORE, emptied=True)
    note = f"online.{name}: dropped with {rows:,} rows, as the feature view is gone"
    if scalar(connection, "select to_regclass(%s)", [f"published.{name}"]) is not None:
        note += (
            f". published.{name} is still there: if that was a mistake, give the model its "
            "meta.feast back, then: cd feature_repo && feast apply && feast "
            "materialize-incremental $(date -u +%Y-%m-%dT%H:%M:%S)"
        )
    return note


def forget(connection: psycopg.Connection, name: str, store: str, *, emptied: bool = False) -> None:
    """Note that the online content of the view must be filled anew, or (`emptied`) is gone."""
    connection.execute(
        """
        insert into ledger.materializations (
            view_name, store, as_of, publication, end_date, columns,
            considered, changed, unchanged, removed, seconds
        )
        select %(view)s, %(store)s, (
            select as_of from ledger.materializations
            where view_name = %(view)s and store = %(store)s and not %(emptied)s
            order by materialization_id desc limit 1
        ), 'epoch', 'epoch', '{}', 0, 0, 0, 0, 0
        """,
        {"view": name, "store": store, "emptied": emptied},
    )


def _columns(connection: psycopg.Connection, name: str) -> dict[str, str] | None:
    """Column -> type of the online table, or None if there is none."""
    found = connection.execute(
        """
        select attname, format_type(atttypid, atttypmod) from pg_attribute
        where attrelid = to_regclass(format('online.%%I', %s::text))
            and attnum > 0 and not attisdropped
        """,
        [name],
    ).fetchall()
    return dict(found) or None


def key_types(connection: psycopg.Connection, name: str) -> tuple[tuple[str, str], ...]:
    """The primary key of an online table, which is the view's join keys, with their types."""
    return tuple(
        connection.execute(
            """
            select attname, format_type(atttypid, null)
            from pg_index
            cross join unnest(indkey) with ordinality as listed (attnum, place)
            inner join pg_attribute using (attnum)
            where indisprimary and indrelid = to_regclass(format('online.%%I', %s::text))
                and attrelid = indrelid
            order by place
            """,
            [name],
        ).fetchall()
    )


def _create(view: View) -> sql.Composed:
    # Half of each page stays free: every month replaces every row, and then the new one fits beside
    # the old one and needs no new index entry (measured: 1.5 times faster, and a table that had
    # grown to 64 MB stays at 26 MB).
    columns = [
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind))
        for name, kind in (*view.keys, *view.columns)
    ]
    return sql.SQL(
        "create table {} ({}, as_of timestamptz not null, known_at timestamptz, {}, {}, "
        "primary key ({}){}) with (fillfactor = 50)"
    ).format(
        view.table,
        sql.SQL(", ").join(columns),
        sql.SQL("published_at timestamptz not null default clock_timestamp()"),
        sql.SQL(PUSHED_AT),
        identifiers(view.key_names),
        sql.Composed(
            [sql.SQL(", ") + check for name, kind in view.columns for check in _checks(name, kind)]
        ),
    )


def _checks(name: str, kind: str) -> list[sql.Composed]:
    """That only values come in which Feast can answer as they are."""
    check = kind_of(kind).check
    return [sql.SQL("check ({})").format(sql.SQL(check).format(sql.Identifier(name)))] * bool(check)


def inexact(connection: psycopg.Connection, error: psycopg.errors.CheckViolation) -> str:
    """What is wrong with the value that one of those checks has refused, and the remedy."""
    view, constraint = error.diag.table_name, error.diag.constraint_name
    found = connection.execute(
        """
        select attname, format_type(atttypid, atttypmod)
        from pg_constraint
        inner join pg_attribute on attrelid = conrelid and attnum = any(conkey)
        where conrelid = to_regclass(format('online.%%I', %s::text)) and conname = %s
        """,
        [view, constraint],
    ).fetchone()
    name, kind = found or (constraint, "")
    rule = kind_of(kind).rule if kind else str(error)
    return f"{view}.{name} ({kind}) has a value that Feast cannot hold as it is. {rule}"


def _alter(connection: psycopg.Connection, view: View, there: dict[str, str]) -> list[str]:
    own = {*view.key_names, "as_of", "known_at", "published_at", "pushed_at"}
    wanted = dict(view.columns)
    actions, lines = [], []

    def add(text: str, name: str, kind: str = "") -> None:
        actions.append(sql.SQL(text).format(sql.Identifier(name), sql.SQL(kind)))
        if text.startswith("add"):
            actions.extend(sql.SQL("add {}").format(check) for check in _checks(name, kind))

    if "pushed_at" not in there:
        actions.append(sql.SQL("add column {}").format(sql.SQL(PUSHED_AT)))
    for name in there.keys() - own - wanted.keys():
        add("drop column {}", name)
        lines.append(f"online.{view.name}: dropped column {name}")
    for name, kind in wanted.items():
        if name not in there:
            add("add column {} {}", name, kind)
            lines.append(f"online.{view.name}: added column {name} {kind}, not filled yet")
        elif there[name] != kind and is_wider(there[name], kind):
            add("alter column {} type {}", name, kind)
            lines.append(f"online.{view.name}: widened {name} from {there[name]} to {kind}")
        elif there[name] != kind:
            add("drop column {}", name)
            add("add column {} {}", name, kind)
            lines.append(
                f"online.{view.name}: {name} is now {kind}, was {there[name]}, "
                "empty until the next materialization"
            )
    if actions:
        connection.execute(
            sql.SQL("alter table {} {}").format(view.table, sql.SQL(", ").join(actions))
        )
    return lines
