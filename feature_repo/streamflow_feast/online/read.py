"""The one read of a request: several views, several entities, one statement. No Feast needed.

Serving uses this too, so that both give the same answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, NamedTuple

from psycopg import sql


class Status(Enum):
    """Of one feature of one entity; the names are Feast's FieldStatus."""

    PRESENT = "PRESENT"
    NULL_VALUE = "NULL_VALUE"
    NOT_FOUND = "NOT_FOUND"  # the view has no row of this entity
    OUTSIDE_MAX_AGE = "OUTSIDE_MAX_AGE"  # older than the view's ttl; its value is withheld


class Vector(NamedTuple):
    """An entity's row of one view. `as_of` None: there is none. Values in the order asked."""

    as_of: datetime | None
    known_at: datetime | None
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Lookup:
    """What a request wants of one view: `keys` are the view's join keys -> columns of the request,
    `features` columns of its online table, which may be none."""

    view: str
    keys: Mapping[str, str]
    features: Sequence[str]


def select_vectors(lookups: Sequence[Lookup], columns: Mapping[str, str]) -> sql.Composed:
    """One statement for all `lookups`; `columns` are those of the request, with their types.

    Its parameters are an array for each column, all of one length. Rows come in the order of the
    arrays, repeated ones included: for each look-up in turn as_of, known_at, then the features.
    """
    selected, joins = [], []
    for number, lookup in enumerate(lookups):
        alias = f"v{number}"
        selected += [sql.Identifier(alias, name) for name in ("as_of", "known_at")]
        selected += [sql.Identifier(alias, name) for name in lookup.features]
        conditions = [
            sql.SQL("{} = {}").format(sql.Identifier(alias, key), sql.Identifier("asked", column))
            for key, column in lookup.keys.items()
        ]
        joins.append(
            sql.SQL(" left join {} as {} on {}").format(
                sql.Identifier("online", lookup.view),
                sql.Identifier(alias),
                sql.SQL(" and ").join(conditions),
            )
        )
    return sql.SQL(
        "select {} from unnest({}) with ordinality as asked ({}, position){} order by position"
    ).format(
        sql.SQL(", ").join(selected),
        sql.SQL(", ").join(sql.SQL(f"%s::{kind}[]") for kind in columns.values()),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.Composed(joins),
    )


def split_row(row: Sequence[Any], lookups: Sequence[Lookup]) -> list[Vector]:
    """A row of `select_vectors` as one Vector a look-up, in their order."""
    vectors, start = [], 0
    for lookup in lookups:
        end = start + 2 + len(lookup.features)
        vectors.append(Vector(row[start], row[start + 1], tuple(row[start + 2 : end])))
        start = end
    return vectors


def expired(as_of: datetime | None, ttl: timedelta | None, now: datetime) -> bool:
    """Whether a row is older than its view's ttl; equally old is not, as in the offline join."""
    return ttl is not None and as_of is not None and as_of < now - ttl


def status(value: Any, as_of: datetime | None, ttl: timedelta | None, now: datetime) -> Status:
    """Feast's status of a feature; `ttl` None means that values do not expire."""
    if as_of is None:
        return Status.NOT_FOUND
    if expired(as_of, ttl, now):
        return Status.OUTSIDE_MAX_AGE
    return Status.NULL_VALUE if value is None else Status.PRESENT
