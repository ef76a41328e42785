"""The SQL of a point-in-time join over versioned rows. Pure: text out of definitions.

A versioned table has rows (key, timestamp, created, is_retracted, features). A reader at instant
T who knows what was known at K gets, per key, the newest timestamp <= T whose newest version
(created <= K) is not retracted. On the primary key (key, timestamp, created) that is one index
descent a row, and the scan stops at the first version that counts: the cost does not grow with
the length of the history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from psycopg import sql

from streamflow_feast.dbt.types import CUT

HISTORY = "features"
"""Schema of every version with every column that was ever published. Only read as known at a
publication: up to that, no version is unpublished."""
FRAME = sql.Identifier("entity_frame")
ROW, INSTANT = "row_number", "instant"
RECENT = timedelta(days=32)  # with monthly, weekly and daily features nearly every answer is here


@dataclass(frozen=True)
class View:
    """What is wanted from one versioned table."""

    name: str
    schema: str
    table: str
    keys: dict[str, str]  # column of the table -> column of the entity frame
    features: dict[str, str]  # column of the table -> column of the result
    timestamp: str
    created: str
    ttl: timedelta = timedelta(0)  # 0: never too old
    types: dict[str, str] = field(default_factory=dict)  # column of the table -> Postgres type


@dataclass(frozen=True)
class Bounds:
    """What of the versions a reader sees."""

    known_at: datetime | None = None
    created_by_instant: bool = False  # Feast's filter_by_created_timestamp
    not_before: datetime | None = None


def frame_keys(views: Sequence[View]) -> dict[str, str]:
    """Join keys that the entity frame must hold, with their types, in order of first use.

    Raises:
        ValueError: two views need one of them as different types.
    """
    found: dict[str, str] = {}
    for view in views:
        for column, key in view.keys.items():
            kind = view.types.get(column, "text")
            if found.setdefault(key, kind) != kind:
                raise ValueError(
                    f"{key} is {kind} in {view.name} and {found[key]} in another view of the "
                    "request: ask for them one after the other"
                )
    return found


def create_frame(key_types: Sequence[str]) -> sql.Composed:
    """The temporary table of the entity rows; gone with the transaction. `key_types` are those of
    `frame_keys`, in their order."""
    return sql.SQL("create temporary table {} ({} bigint, {} timestamptz{}) on commit drop").format(
        FRAME,
        sql.Identifier(ROW),
        sql.Identifier(INSTANT),
        sql.SQL("").join(
            sql.SQL(", {} {}").format(_key(i), sql.SQL(kind)) for i, kind in enumerate(key_types)
        ),
    )


def key_columns(keys: Sequence[str]) -> list[str]:
    """Names of the frame table's columns."""
    return [ROW, INSTANT, *(f"key_{i}" for i in range(len(keys)))]


def join(views: Sequence[View], bounds: Bounds) -> sql.Composed:
    """Query of (row number, features of every view), one row a row of the frame table.

    In order of the keys, not of the frame: neighbours then find their pages in the cache, which
    halves the time of a frame in random order.
    """
    keys = list(frame_keys(views))
    columns = [sql.SQL("e.{}").format(sql.Identifier(ROW))]
    columns += _features(views)
    order = [*(_key(i) for i in range(len(keys))), sql.Identifier(INSTANT)]
    return sql.SQL("select {} from (select * from {} order by {}) e {}").format(
        sql.SQL(", ").join(columns),
        FRAME,
        sql.SQL(", ").join(order),
        _look_ups(views, keys, bounds),
    )


def between(views: Sequence[View], start: datetime, end: datetime, bounds: Bounds) -> sql.Composed:
    """Query for a range of instants, without an entity frame.

    One view: its rows, as (event_timestamp, created_timestamp, keys, features). Several: every
    (instant, key) of any of them, as (event_timestamp, keys, features), features as of then.
    As in stock Feast, `filter_by_created_timestamp` has no meaning here.

    Raises:
        ValueError: the views have different keys.
    """
    keys = list(frame_keys(views))
    for view in views:
        if set(view.keys.values()) != set(keys):
            raise ValueError(
                f"{view.name} has the key {', '.join(view.keys.values())}, others of the request "
                f"have {', '.join(keys)}: without an entity frame all views need the same key"
            )
    if len(views) == 1:
        (view,) = views
        columns = [
            sql.SQL("{} as event_timestamp").format(sql.Identifier(view.timestamp)),
            sql.SQL("{} as created_timestamp").format(sql.Identifier(view.created)),
            *_renamed(view.keys),
            *(_feature(view, c, name, sql.Identifier(c)) for c, name in view.features.items()),
        ]
        return sql.SQL("select {} from {} v order by {}, {}").format(
            sql.SQL(", ").join(columns),
            _newest_between(view, start, end, bounds),
            sql.Identifier(view.timestamp),
            sql.SQL(", ").join(map(sql.Identifier, view.keys)),
        )
    pairs = sql.SQL(" union ").join(
        sql.SQL("select {} as {}, {} from {} v").format(
            sql.Identifier(view.timestamp),
            sql.Identifier(INSTANT),
            sql.SQL(", ").join(
                sql.SQL("{} as {}").format(sql.Identifier(column), _key(keys.index(key)))
                for column, key in sorted(view.keys.items(), key=lambda item: keys.index(item[1]))
            ),
            _newest_between(view, start, end, bounds),
        )
        for view in views
    )
    columns = [sql.SQL("e.{} as event_timestamp").format(sql.Identifier(INSTANT))]
    columns += [
        sql.SQL("e.{} as {}").format(_key(i), sql.Identifier(k)) for i, k in enumerate(keys)
    ]
    columns += _features(views)
    return sql.SQL("select {} from ({}) e {} order by e.{}, {}").format(
        sql.SQL(", ").join(columns),
        pairs,
        _look_ups(views, keys, Bounds(bounds.known_at, not_before=start)),
        sql.Identifier(INSTANT),
        sql.SQL(", ").join(sql.SQL("e.{}").format(_key(i)) for i in range(len(keys))),
    )


def effective(view: View, known_at: datetime | None) -> sql.Composed:
    """Query of the newest version of every (key, timestamp), without the retracted ones."""
    keys = [sql.Identifier(c) for c in (*view.keys, view.timestamp)]
    return sql.SQL(
        "select * from (select distinct on ({}) * from {} where {} order by {}, {} desc) versions "
        "where not is_retracted"
    ).format(
        sql.SQL(", ").join(keys),
        sql.Identifier(view.schema, view.table),
        _known(view, Bounds(known_at)),
        sql.SQL(", ").join(keys),
        sql.Identifier(view.created),
    )


def versions(view: View, bounds: Bounds, oldest: datetime | None, newest: datetime) -> sql.Composed:
    """Query of all versions that a reader at an instant up to `newest` may need: (keys, timestamp,
    created, is_retracted, features)."""
    timestamp = sql.Identifier(view.timestamp)
    conditions = [_known(view, bounds), sql.SQL("{} <= {}").format(timestamp, _instant(newest))]
    if oldest and view.ttl:
        conditions.append(sql.SQL("{} >= {}").format(timestamp, _instant(oldest - view.ttl)))
    return sql.SQL("select {} from {} where {}").format(
        sql.SQL(", ").join(
            [
                *map(sql.Identifier, (*view.keys, view.timestamp, view.created, "is_retracted")),
                *(_feature(view, c, name, sql.Identifier(c)) for c, name in view.features.items()),
            ]
        ),
        sql.Identifier(view.schema, view.table),
        sql.SQL(" and ").join(conditions),
    )


def _newest_between(view: View, start: datetime, end: datetime, bounds: Bounds) -> sql.Composed:
    # The outer filter is pushed below DISTINCT ON, as the timestamp is one of its columns.
    return sql.SQL("(select * from ({}) w where {} between {} and {})").format(
        effective(view, bounds.known_at),
        sql.Identifier(view.timestamp),
        _instant(start),
        _instant(end),
    )


def _look_ups(views: Sequence[View], keys: Sequence[str], bounds: Bounds) -> sql.Composed:
    return sql.SQL(" ").join(
        sql.SQL("left join lateral ({}) v{} on true").format(
            _look_up(view, keys, bounds), sql.SQL(str(i))
        )
        for i, view in enumerate(views)
    )


def _look_up(view: View, keys: Sequence[str], bounds: Bounds) -> sql.Composed:
    """The row of one view at one instant: recent versions first, and only then older ones.

    An index scan reads all that matches on a page before it gives the first row, so that a single
    range would cost more with every month of history. Append runs its parts in order, and stops
    at the limit.
    """
    timestamp = sql.Identifier(view.timestamp)
    instant = sql.SQL("e.{}").format(sql.Identifier(INSTANT))
    since = sql.SQL("{} - {}").format(instant, _interval(RECENT))
    stretch = sql.SQL("{t} <= {} and {t} > {}").format(instant, since, t=timestamp)
    recent = _newest(view, keys, bounds, stretch)
    if view.ttl and view.ttl < RECENT:
        return recent
    older = _newest(view, keys, bounds, sql.SQL("{} <= {}").format(timestamp, since))
    return sql.SQL("({}) union all ({}) limit 1").format(recent, older)


def _newest(
    view: View, keys: Sequence[str], bounds: Bounds, stretch: sql.Composable
) -> sql.Composed:
    """The newest row within a stretch of time, as (features)."""
    timestamp = sql.Identifier(view.timestamp)
    instant = sql.SQL("e.{}").format(sql.Identifier(INSTANT))
    conditions: list[sql.Composable] = [
        sql.SQL("{} = e.{}").format(sql.Identifier(column), _key(keys.index(key)))
        for column, key in view.keys.items()
    ]
    conditions += [stretch, _known(view, bounds)]
    if view.ttl:
        oldest = sql.SQL("{} - {}").format(instant, _interval(view.ttl))
        conditions.append(sql.SQL("{} >= {}").format(timestamp, oldest))
    if bounds.not_before:
        conditions.append(sql.SQL("{} >= {}").format(timestamp, _instant(bounds.not_before)))
    if bounds.created_by_instant:
        conditions.append(sql.SQL("{} <= {}").format(sql.Identifier(view.created), instant))
    features = sql.SQL(", ").join(map(sql.Identifier, view.features))
    return sql.SQL(
        "select {features} from (select distinct on ({timestamp}) is_retracted, {features} "
        "from {table} where {conditions} order by {timestamp} desc, {created} desc) versions "
        "where not is_retracted limit 1"
    ).format(
        features=features,
        timestamp=timestamp,
        created=sql.Identifier(view.created),
        table=sql.Identifier(view.schema, view.table),
        conditions=sql.SQL(" and ").join(conditions),
    )


def _known(view: View, bounds: Bounds) -> sql.Composable:
    if bounds.known_at is None:
        return sql.SQL("true")
    return sql.SQL("{} <= {}").format(sql.Identifier(view.created), _instant(bounds.known_at))


def _features(views: Sequence[View]) -> list[sql.Composed]:
    return [
        _feature(view, column, name, sql.Identifier(f"v{i}", column))
        for i, view in enumerate(views)
        for column, name in view.features.items()
    ]


def _feature(view: View, column: str, name: str, value: sql.Composable) -> sql.Composed:
    """A feature as Feast has it, under its name in the result."""
    cut = CUT.get(view.types.get(column, ""), "{0}")
    return sql.SQL("{} as {}").format(sql.SQL(cut).format(value), sql.Identifier(name))


def _renamed(columns: dict[str, str]) -> list[sql.Composed]:
    return [
        sql.SQL("{} as {}").format(sql.Identifier(column), sql.Identifier(name))
        for column, name in columns.items()
    ]


def _key(i: int) -> sql.Identifier:
    return sql.Identifier(f"key_{i}")


def _interval(length: timedelta) -> sql.Composed:
    microseconds = length // timedelta(microseconds=1)
    return sql.SQL("{} * interval '1 microsecond'").format(sql.Literal(microseconds))


def _instant(instant: datetime) -> sql.Composed:
    return sql.SQL("{}::timestamptz").format(sql.Literal(instant.isoformat()))
