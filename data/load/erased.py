"""Rows of who was erased (raw.erased) are not loaded again, whoever delivers them.

The list is by entity, `user`, or for a pair of entities `device,user`, with the hash of their keys
in this order. A row is of the entity that its first column of it names. Where a further column
names it (a friend, say), that value is emptied if it may be, and the row goes otherwise.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import psycopg
from psycopg import sql

from data.contract import Column, Table

ALL = sql.SQL("true")


class Place(NamedTuple):
    """Columns that name one of an entity together, and those to empty; none: the row goes."""

    columns: tuple[Column, ...]
    emptied: tuple[str, ...]

    def names(self, alias: str) -> sql.Composed:
        """The columns of a relation's alias."""
        return sql.SQL(", ").join(sql.Identifier(alias, column.name) for column in self.columns)

    def forget(
        self,
        relation: sql.Composable,
        who: sql.Composable,
        which: sql.Composable = ALL,
        returning: str = "0",
    ) -> sql.Composed:
        """What takes `who`, a query of these columns' values, out of the rows `which`, as `r`."""
        if self.emptied:
            empty = [sql.SQL("{} = null").format(sql.Identifier(name)) for name in self.emptied]
            what = sql.SQL("update {} as r set {} from who").format(
                relation, sql.SQL(", ").join(empty)
            )
        else:
            what = sql.SQL("delete from {} as r using who").format(relation)
        return sql.SQL(
            "with who as materialized ({}) {} where ({}) = ({}) and {} returning {}"
        ).format(who, what, self.names("r"), self.names("who"), which, sql.SQL(returning))


def places(table: Table, entities: Sequence[str]) -> Iterator[Place]:
    """Where rows of the table name one of these entities together; first the row's own."""
    named = [[c for c in table.columns if (c.entity or c.name) == entity] for entity in entities]
    for columns in itertools.product(*named):
        further = [c for c, all_of in zip(columns, named, strict=True) if c is not all_of[0]]
        yield Place(columns, tuple(c.name for c in further if c.may_be_absent))


def take_out(
    connection: psycopg.Connection,
    table: Table,
    relation: sql.Composable,
    which: sql.Composable = ALL,
    returning: str = "0",
) -> list[int]:
    """Take who was erased out of the rows `which` (as `r`) of a relation with the table's columns;
    `returning` of each row that is gone."""
    gone: list[int] = []
    for (entity,) in connection.execute("select distinct entity from raw.erased").fetchall():
        for place in places(table, entity.split(",")):
            who = sql.SQL(
                "select * from (select distinct {} from {} as r where {}) as r"
                " where raw.hash_of({}, {}) in (select hash from raw.erased where entity = {})"
            ).format(
                place.names("r"),
                relation,
                which,
                sql.Literal(entity),
                sql.SQL(", ").join(
                    sql.SQL("{}::text").format(sql.Identifier("r", column.name))
                    for column in place.columns
                ),
                sql.Literal(entity),
            )
            rows = connection.execute(place.forget(relation, who, which, returning)).fetchall()
            gone += [] if place.emptied else [row[0] for row in rows]
    return gone
