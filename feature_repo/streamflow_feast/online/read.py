"""The one read of a request: several views, several users, one statement. No Feast needed.

Serving uses this too, so that both give the same answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, NamedTuple

from psycopg import sql


class Status(Enum):
    """Of one feature of one user; the names are Feast's FieldStatus."""

    PRESENT = "PRESENT"
    NULL_VALUE = "NULL_VALUE"
    NOT_FOUND = "NOT_FOUND"  # the view has no row of this user
    OUTSIDE_MAX_AGE = "OUTSIDE_MAX_AGE"  # older than the view's ttl; its value is withheld


class Vector(NamedTuple):
    """A user's row of one view. `as_of` is None when there is none; values in the order asked."""

    as_of: datetime | None
    known_at: datetime | None
    values: tuple[Any, ...]


def select_vectors(views: Mapping[str, Sequence[str]]) -> sql.Composed:
    """One statement for all `views` (view -> feature names, which may be none).

    Its single parameter is the array of user ids. Rows come in the order of that array, repeated
    ids included: for each view in turn as_of, known_at, then the features.
    """
    columns, joins = [], []
    for number, (view, features) in enumerate(views.items()):
        alias = f"v{number}"
        columns += [sql.Identifier(alias, name) for name in ("as_of", "known_at", *features)]
        joins.append(
            sql.SQL(" left join {} as {} on {} = asked.user_id").format(
                sql.Identifier("online", view),
                sql.Identifier(alias),
                sql.Identifier(alias, "user_id"),
            )
        )
    return sql.SQL(
        "select {} from unnest(%s::text[]) with ordinality as asked (user_id, position)"
        "{} order by asked.position"
    ).format(sql.SQL(", ").join(columns), sql.Composed(joins))


def split_row(row: Sequence[Any], views: Mapping[str, Sequence[str]]) -> list[Vector]:
    """A row of `select_vectors` as one Vector a view, in the order of `views`."""
    vectors, start = [], 0
    for features in views.values():
        end = start + 2 + len(features)
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
