"""A slice's rows for stores that are not this database's, streamed and in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from streamflow_feast.kinds import register_json
from streamflow_feast.materialize.slice import Plan, newest_versions
from streamflow_feast.tables import all_equal, identifiers

Item = TypeVar("Item")

BATCH = 5_000  # rows a server-side cursor hands over at a time


def rows_to_write(connection: psycopg.Connection, plan: Plan) -> Iterator[tuple[Any, ...]]:
    """(*keys, as_of, known_at, *features) of what this run writes, streamed."""
    query = sql.SQL(
        "select {}, as_of, known_at, {} from {} as newest where not is_retracted"
    ).format(
        identifiers(plan.view.key_names), identifiers(plan.view.names), newest_versions(plan.view)
    )
    return _stream(connection, query, plan)


def keys_to_remove(connection: psycopg.Connection, plan: Plan) -> Iterator[tuple[Any, ...]]:
    """The keys of every entity that was ever published and is not to be found
    online.

    All of them, not only those who left since: a killed run may have written any of them.
    """
    keys = identifiers(plan.view.key_names)
    if plan.form == "changes":
        query = sql.SQL("select {} from {} as newest where is_retracted").format(
            keys, newest_versions(plan.view)
        )
    else:
        query = sql.SQL(
            "select distinct {} from {} as ever where known_at <= %(publication)s"
            " and as_of <= greatest(%(as_of)s, %(was)s::timestamptz) and not exists ("
            "select from {} as newest where {} and not is_retracted)"
        ).format(
            keys,
            plan.view.relation,
            newest_versions(plan.view),
            all_equal(plan.view.key_names, "newest", "ever"),
        )
    return _stream(connection, query, plan)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of at most `size`."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _stream(
    connection: psycopg.Connection, query: sql.Composed, plan: Plan
) -> Iterator[tuple[Any, ...]]:
    with connection.cursor(name="streamflow_publish") as cursor:
        cursor.itersize = BATCH
        register_json(cursor.adapters)
        cursor.execute(query, plan.parameters)
        yield from cursor
