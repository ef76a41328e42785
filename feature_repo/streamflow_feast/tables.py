"""A feature view as the database sees it. No Feast needed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from psycopg import sql

from streamflow_feast.dbt.types import CUT


@dataclass(frozen=True)
class View:
    """`source` is the published relation; `keys` are the join keys and `columns` the features, as
    (name, Postgres type)."""

    name: str
    source: str
    keys: tuple[tuple[str, str], ...]
    columns: tuple[tuple[str, str], ...]
    ttl: timedelta | None  # None: values do not expire

    @property
    def key_names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.keys)

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

    @property
    def versions(self) -> sql.Composable:
        """Its rows with the features as Feast has them; give it an alias."""
        if not any(kind in CUT for _, kind in self.columns):
            return self.relation
        features = [
            sql.SQL(CUT.get(kind, "{0}") + " as {0}").format(sql.Identifier(name))
            for name, kind in self.columns
        ]
        return sql.SQL("(select {}, as_of, known_at, is_retracted, {} from {})").format(
            identifiers(self.key_names), sql.SQL(", ").join(features), self.relation
        )


def identifiers(names: Iterable[str], table: str | None = None) -> sql.Composed:
    """`a, b` or `table.a, table.b`, quoted."""
    prefix = () if table is None else (table,)
    return sql.SQL(", ").join(sql.Identifier(*prefix, name) for name in names)


def all_equal(names: Iterable[str], left: str, right: str) -> sql.Composed:
    """Whether all the columns are equal; for join keys, which are never null."""
    return sql.SQL("({})").format(
        sql.SQL(" and ").join(
            sql.SQL("{} = {}").format(sql.Identifier(left, name), sql.Identifier(right, name))
            for name in names
        )
    )


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
