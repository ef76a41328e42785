"""A feature view as the database sees it. No Feast needed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from psycopg import sql


@dataclass(frozen=True)
class View:
    """`source` is the published relation, `columns` the features as (name, Postgres type)."""

    name: str
    source: str
    columns: tuple[tuple[str, str], ...]
    ttl: timedelta | None  # None: values do not expire

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.columns)

    @property
    def table(self) -> sql.Identifier:
        """The online table."""
        return sql.Identifier("online", self.name)

    @property
    def relation(self) -> sql.Identifier:
        """The published relation, quoted part by part."""
        return sql.Identifier(*self.source.split("."))


def identifiers(names: Iterable[str], table: str | None = None) -> sql.Composed:
    """`a, b` or `table.a, table.b`, quoted."""
    prefix = () if table is None else (table,)
    return sql.SQL(", ").join(sql.Identifier(*prefix, name) for name in names)


def any_distinct(names: Iterable[str], left: str, right: str) -> sql.Composed:
    """Whether any of the columns differs, null-safe; far faster than comparing two row()s."""
    return sql.SQL("({})").format(
        sql.SQL(" or ").join(
            sql.SQL("{} is distinct from {}").format(
                sql.Identifier(left, name), sql.Identifier(right, name)
            )
            for name in names
        )
    )
