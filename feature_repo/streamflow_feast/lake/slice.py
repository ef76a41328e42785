"""Of the lake's versions, those that can be online: brought beside the online tables.

What is online is one slice of a view, the entities of one as_of (materialize/slice.py). Its
versions are kept in Postgres under the names that they have where dbt builds there,
published.<view>; so plan, comparison, transaction and audit are those of every other
materialization. Rows are written by Spark's own tasks, each over a connection of its own, into an
unlogged table, and moved in the transaction that materializes. What was brought once is not brought
again: cost follows what is new.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from datetime import datetime

import psycopg
import pyarrow as pa
from psycopg import sql

from data.database import Database
from data.lake.session import session
from streamflow_feast.offline import arrow_copy
from streamflow_feast.tables import View, identifiers

VERSION = ("as_of", "known_at", "is_retracted")
ROWS_A_TASK = 200_000
STAGING = "brought_"


def bring(
    connection: psycopg.Connection, views: Sequence[View], ends: Sequence[datetime], store: str
) -> None:
    """Make published.<view> hold every version of the newest as_of up to its end, and of the one
    that is online, in the transaction that is open."""
    (publication,) = connection.execute(
        "select max(known_at) from ledger.publications"
    ).fetchone() or (None,)
    _drop_leavings()
    for view, end in zip(views, ends, strict=True):
        _shape(connection, view)
        newest = _newest_as_of(view, end, publication)
        wanted = {*newest, *_online(connection, view, store)}
        there: dict[datetime, datetime] = dict(
            connection.execute(
                "select as_of, publication from ledger.brought where view_name = %s", [view.name]
            ).fetchall()
        )
        for as_of in sorted(wanted):
            if there.get(as_of) != publication:
                _bring_slice(connection, view, as_of, there.get(as_of), publication)
        gone = [as_of for as_of in there if as_of not in wanted]
        connection.execute(
            sql.SQL("delete from {} where as_of = any(%s)").format(view.relation), [gone]
        )
        connection.execute(
            "delete from ledger.brought where view_name = %s and as_of = any(%s)",
            [view.name, gone],
        )


def _shape(connection: psycopg.Connection, view: View) -> None:
    """The table of the view's versions, and the newest of them as a view, with its columns."""
    columns = _columns(view)
    there = [
        row[0]
        for row in connection.execute(
            "select attname from pg_attribute where attrelid = to_regclass(%s)"
            " and attnum > 0 and not attisdropped",
            [view.source],
        )
    ]
    if there and set(there) == set(columns):
        return
    if there and set(columns) - set(there):
        # Versions of before a column have no value in it, here as on the lake.
        for name in columns.keys() - set(there):
            connection.execute(
                sql.SQL("alter table {} add column {} {}").format(
                    view.relation, sql.Identifier(name), sql.SQL(columns[name])
                )
            )
    latest = sql.Identifier(*f"{view.source}_latest".split("."))
    connection.execute(sql.SQL("drop view if exists {}").format(latest))
    for name in set(there) - set(columns):
        connection.execute(
            sql.SQL("alter table {} drop column {}").format(view.relation, sql.Identifier(name))
        )
    keys = identifiers(view.key_names)
    if not there:
        connection.execute(
            sql.SQL("create table {} ({}, primary key ({}, as_of, known_at))").format(
                view.relation, _declared(columns), keys
            )
        )
        connection.execute(sql.SQL("create index on {} (as_of, known_at)").format(view.relation))
    connection.execute(
        sql.SQL(
            "create view {} as select {} from (select distinct on ({}, as_of) * from {}"
            " order by {}, as_of, known_at desc) as newest where not is_retracted"
        ).format(latest, identifiers(columns), keys, view.relation, keys)
    )


def _columns(view: View) -> dict[str, str]:
    """Column -> Postgres type of the view's versions."""
    of_version = dict(zip(VERSION, ("timestamptz", "timestamptz", "boolean"), strict=True))
    return {**dict(view.keys), **of_version, **dict(view.columns)}


def _declared(columns: dict[str, str]) -> sql.Composed:
    return sql.SQL("{}").format(
        sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind))
            for name, kind in columns.items()
        )
    )


def _newest_as_of(view: View, end: datetime, publication: datetime) -> list[datetime]:
    """The newest as_of up to `end` with an entity whose newest version is no retraction, if any."""
    found = (
        session()
        .sql(
            f"select max(as_of) as newest from {view.source}_latest"
            f" where as_of <= timestamp '{end.isoformat()}'"
            f" and known_at <= timestamp '{publication.isoformat()}'"
        )
        .toArrow()
    )
    newest = found.column("newest").cast(pa.timestamp("us", "UTC"))
    return [value for value in newest.to_pylist() if value is not None]


def _online(connection: psycopg.Connection, view: View, store: str) -> list[datetime]:
    row = connection.execute(
        "select as_of from ledger.materializations where view_name = %s and store = %s"
        " order by materialization_id desc limit 1",
        [view.name, store],
    ).fetchone()
    return [row[0]] if row and row[0] else []


def _bring_slice(
    connection: psycopg.Connection,
    view: View,
    as_of: datetime,
    since: datetime | None,
    publication: datetime,
) -> None:
    names = [*view.key_names, *VERSION, *view.names]
    query = (
        f"select {', '.join(names)} from {view.source}"
        f" where as_of = timestamp '{as_of.isoformat()}'"
        f" and known_at <= timestamp '{publication.isoformat()}'"
    )
    if since is not None:
        query += f" and known_at > timestamp '{since.isoformat()}'"
    rows = session().sql(query)
    staged = sql.Identifier("published", f"{STAGING}{view.name[:40]}_{secrets.token_hex(4)}")
    with Database().connect() as own:  # the tasks have to see it
        own.execute(
            sql.SQL("create unlogged table {} ({})").format(staged, _declared(_columns(view)))
        )
    tasks = max(1, -(-rows.count() // ROWS_A_TASK))
    writer = _Writer(Database().conninfo(), staged.as_string(), names)
    sent = rows.coalesce(max(tasks, 1)).mapInArrow(writer, "rows bigint").collect()
    moved = connection.execute(
        # A task that Spark ran twice has written twice.
        sql.SQL("insert into {} ({}) select {} from {} on conflict do nothing").format(
            view.relation, identifiers(names), identifiers(names), staged
        )
    ).rowcount
    assert moved <= sum(row[0] for row in sent), "the tasks wrote less than was moved"
    connection.execute(sql.SQL("drop table {}").format(staged))
    connection.execute(
        "insert into ledger.brought values (%s, %s, %s)"
        " on conflict (view_name, as_of) do update set publication = excluded.publication",
        [view.name, as_of, publication],
    )


class _Writer:
    """A task of Spark: its rows into the staged table, in one transaction. Its own settings come
    with it, since it may run on another machine."""

    def __init__(self, conninfo: str, table: str, names: Sequence[str]) -> None:
        self.conninfo, self.table, self.names = conninfo, table, list(names)

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows = 0
        with psycopg.connect(self.conninfo) as connection:
            for batch in batches:
                table = pa.Table.from_batches([batch]).select(self.names)
                arrow_copy.write(connection, table, sql.SQL(self.table), self.names)
                rows += batch.num_rows
        yield pa.record_batch([pa.array([rows], pa.int64())], ["rows"])


def _drop_leavings() -> None:
    """Staged tables of runs that were killed; only one run at a time comes here."""
    with Database().connect() as own:
        for (name,) in own.execute(
            "select tablename from pg_tables where schemaname = 'published' and tablename like %s",
            [f"{STAGING}%"],
        ).fetchall():
            own.execute(sql.SQL("drop table {}").format(sql.Identifier("published", name)))
