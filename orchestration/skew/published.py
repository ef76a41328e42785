"""What publications, and pushes, say about logged answers: set-based, a query a view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from serving.catalogue import Service, View


@dataclass(frozen=True)
class Answer:
    """A logged answer: its keys as published, its views' clocks, its values by view__feature."""

    number: int
    at: datetime
    who: str
    keys: Mapping[str, Any] | None  # None: no published entity has that pseudonym
    views: Mapping[str, Mapping[str, Any]]
    served: Mapping[str, Any]
    logged: Mapping[str, Any]


def instant(text: str) -> datetime:
    """An instant as logs have it."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def published_keys(connection: psycopg.Connection, service: Service, key: str) -> Iterator[Any]:
    """Every value of a join key that was ever published for the service's views."""
    for view in service.views:
        for of_view, asked in view.keys.items():
            if asked == key:
                query = sql.SQL("select distinct {} from {}").format(
                    sql.Identifier(of_view), _published(view)
                )
                yield from (value for (value,) in connection.execute(query))


def _published(view: View) -> sql.Identifier:
    return sql.Identifier("published", view.name)


def _asked(
    service: Service, view: View, answers: Sequence[Answer], statement: str
) -> tuple[sql.Composed, list[list[Any]]]:
    """A query over the answers' entities and clocks: `asked` (n, at, as_of, known_at, keys)."""
    known = [answer for answer in answers if answer.keys is not None]
    clocks = [answer.views[view.shown] for answer in known]
    columns: list[list[Any]] = [
        [answer.number for answer in known],
        [answer.at for answer in known],
        [instant(clock["as_of"]) for clock in clocks],
        [clock["known_at"] and instant(clock["known_at"]) for clock in clocks],
        [clock["published_at"] and instant(clock["published_at"]) for clock in clocks],
    ]
    keys = list(view.keys.items())
    columns += [[(answer.keys or {})[asked] for answer in known] for _, asked in keys]
    types = ["bigint", *["timestamptz"] * 4, *(service.keys[asked] for _, asked in keys)]
    names = [
        "n",
        "at",
        "as_of",
        "known_at",
        "published_at",
        *(f"key_{i}" for i in range(len(keys))),
    ]
    same = sql.SQL(" and ").join(
        sql.SQL("version.{} = asked.{}").format(sql.Identifier(key), sql.Identifier(f"key_{i}"))
        for i, (key, _) in enumerate(keys)
    )
    unnested = sql.SQL("unnest({}) as asked ({})").format(
        sql.SQL(", ").join(sql.SQL(f"%s::{kind}[]") for kind in types),
        sql.SQL(", ").join(map(sql.Identifier, names)),
    )
    query = sql.SQL(statement).format(
        asked=unnested,
        same=same,
        versions=_published(view),
        online=sql.Identifier("online", view.name),
    )
    return query, columns


def published_versions(
    connection: psycopg.Connection, service: Service, view: View, answers: Sequence[Answer]
) -> dict[int, Mapping[str, Any]]:
    """The published version behind each answer, by its number."""
    statement = """
        select asked.n, version.* from {asked} inner join {versions} as version
            on {same} and version.as_of = asked.as_of and version.known_at = asked.known_at
        where not version.is_retracted
    """
    cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
    found = cursor.execute(*_asked(service, view, answers, statement))
    return {row["n"]: row for row in found}


def pushed_answers(
    connection: psycopg.Connection, service: Service, view: View, answers: Sequence[Answer]
) -> set[int]:
    """Answers from rows that somebody pushed: no publication is their known_at, or they are still
    online and marked."""
    statement = """
        select asked.n from {asked}
        left join ledger.publications as publication on publication.known_at = asked.known_at
        left join {online} as version
            on {same} and version.published_at = asked.published_at
        where publication.known_at is null or version.pushed_at is not null
    """
    return {n for (n,) in connection.execute(*_asked(service, view, answers, statement))} | {
        answer.number
        for answer in answers
        if answer.keys is None and answer.views[view.shown]["known_at"] is None
    }


def seconds_behind(
    connection: psycopg.Connection, service: Service, view: View, answers: Sequence[Answer]
) -> list[float]:
    """Seconds since which a newer version of each entity had been published at its answer."""
    statement = """
        select coalesce(extract(epoch from asked.at - min(publication.published_at)), 0)::float8
        from {asked}
        left join ({versions} as version
            inner join ledger.publications as publication using (known_at))
            on {same} and publication.published_at <= asked.at and version.as_of <= asked.at
                and (version.as_of, version.known_at)
                > (asked.as_of, coalesce(asked.known_at, 'infinity'))
        group by asked.n, asked.at
    """
    return [s for (s,) in connection.execute(*_asked(service, view, answers, statement))]
