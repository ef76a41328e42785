"""Random drops by the contract, and the same drops with another future: what leak_check loads.

Every declared column is drawn by its type, so that a new table or column takes part by itself.
Events lie on the edges of windows far above their natural odds, most of all exactly at an `as_of`.
Each event is stated by one drop, its own or a later one.
"""

from __future__ import annotations

import csv
import itertools
import json
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

from data.contract import Column, Table, declared
from data.contract.types import DATE, INSTANT

TABLES = declared()

DAY, MICROSECOND = timedelta(days=1), timedelta(microseconds=1)
FIRST = date(2023, 12, 31)
GAPS = (100, 91, 30, 31)  # days between the drops; the second-last is past the longest windows
WINDOWS = (0, 0, 0, 1, 7, 30, 60, 90, 180)
KEPT = 0.95  # of state rows, per drop
OTHERS = 5  # of every entity but users
WITH_HINDSIGHT = {"labels"}  # a drop tells them of its own as_of, and of what came after
Row = dict[str, Any]


@dataclass(frozen=True)
class Drop:
    """The files of a drop: table name -> rows."""

    day: date
    files: dict[str, list[Row]]

    @property
    def end(self) -> datetime:
        """No event of the drop may lie here or later."""
        return midnight(self.day) + DAY


def midnight(day: date) -> datetime:
    """The first instant of a day in UTC."""
    return datetime.combine(day, time(), timezone.utc)


def draw(random: Random, users: int) -> list[Drop]:
    """Five drops of state and events; the first is from before events were captured."""
    days = [FIRST]
    for gap in GAPS:
        days.append(days[-1] + gap * DAY)
    drops = [
        Drop(day, {t.name: [] for t in TABLES if not (t.is_event and day == FIRST)}) for day in days
    ]
    names = [f"user-{number:04d}" for number in range(users)]
    for table in TABLES:
        for key in () if table.is_event else _keys(table, names):
            for drop in drops:
                if drop.day == FIRST or random.random() < KEPT:
                    drop.files[table.name].append(_row(random, table, key, drop))
        for user in names if table.is_event else ():
            for count in range(random.randint(2, 8)):
                _add_event(random, drops, table, user, f"{user}-{count}")
    return drops


def _keys(table: Table, users: list[str]) -> Iterator[Row]:
    """Whom or what a state or aggregate speaks of."""
    columns = [table.column(name) for name in table.key]
    values = [
        users
        if column.name == "user_id"
        else [_named(column, f"{column.entity or column.name}-{n}") for n in range(OTHERS)]
        for column in columns
    ]
    for combination in itertools.product(*values):
        yield dict(zip(table.key, combination, strict=True))


def _event(table: Table, user: str, name: str) -> Row:
    """The columns that say which event it is, and of which user if it is one's."""
    key = table.column(table.key[0])
    said = {"user_id": user} if any(c.name == "user_id" for c in table.columns) else {}
    return {**said, key.name: _named(key, name)}


def _add_event(random: Random, drops: list[Drop], table: Table, user: str, name: str) -> None:
    """An event near some edge, stated by the drop it falls to or, late, by a later one."""
    possible: list[Drop] = []
    while not possible:
        at = _near_an_edge(random, drops)
        possible = [drop for drop in drops if at < drop.end and table.name in drop.files]
    drop = possible[0] if random.random() < 0.8 else random.choice(possible)
    drop.files[table.name].append(_row(random, table, _event(table, user, name), drop, at=at))


def _near_an_edge(random: Random, drops: list[Drop]) -> datetime:
    edge = midnight(random.choice(drops).day) - random.choice(WINDOWS) * DAY
    return edge + random.choice(
        [timedelta(0), MICROSECOND, -MICROSECOND, random.random() * 9 * DAY]
    )


def another_future(random: Random, drops: list[Drop], cut: date) -> tuple[list[Drop], int]:
    """The drops with everything at or after `cut` deleted, moved or redrawn; how many rows that is.

    At or after means: an event's instant, and any other instant of an event; state and aggregates
    of later drops (what a drop dated `cut` says of its users is known at `cut`); labels from `cut`
    on, which are told with hindsight.
    """
    changed = 0
    future = []
    for drop in drops:
        files: dict[str, list[Row]] = {}
        for table in (t for t in TABLES if t.name in drop.files):
            files[table.name] = []
            for row in drop.files[table.name]:
                new = _in_another_future(random, table, row, drop, cut)
                changed += new != row
                if new is not None:
                    files[table.name].append(new)
            if table.is_event and drop.end > midnight(cut):
                new_rows = list(_new_events(random, table, drop, cut))
                changed += len(new_rows)
                files[table.name] += new_rows
        future.append(Drop(drop.day, files))
    return future, changed


def _in_another_future(random: Random, table: Table, row: Row, drop: Drop, cut: date) -> Row | None:
    limit = midnight(cut)
    if not table.is_event:
        if drop.day < cut or (drop.day == cut and table.name not in WITH_HINDSIGHT):
            return row
        key = {name: row[name] for name in table.key}
        return _row(random, table, key, drop) if random.random() < 0.8 else None
    assert table.event_time is not None
    if row[table.event_time] >= limit:
        if random.random() < 0.5:
            return None
        moved = _between(random, limit, drop.end)
        same = {name: row[name] for name in ("user_id", table.key[0]) if name in row}
        return _row(random, table, same, drop, at=moved)
    told_later = {
        c.name: random.choice([None, _between(random, limit, drop.end)])
        if c.nullable
        else _between(random, limit, drop.end)
        for c in table.columns
        if isinstance(row[c.name], datetime) and row[c.name] >= limit
    }
    return {**row, **told_later}


def _new_events(random: Random, table: Table, drop: Drop, cut: date) -> Iterator[Row]:
    """Further events at or after `cut`, the first of them exactly then."""
    users = sorted({row.get("user_id", "nobody") for row in drop.files[table.name]})
    for number, user in enumerate(users):
        at = midnight(cut) if number % 2 else _between(random, midnight(cut), drop.end)
        event = _event(table, user, f"{user}-{drop.day}-new")
        yield _row(random, table, event, drop, at=at)


def later_deliveries(random: Random, drops: list[Drop]) -> list[Drop]:
    """What arrives afterwards: an old drop's state again, corrected, and a drop of late events."""
    old = drops[len(drops) // 2]
    again = {
        table.name: [
            _row(random, table, {name: row[name] for name in table.key}, old)
            if random.random() < 0.5
            else row
            for row in old.files[table.name]
            if random.random() < KEPT
        ]
        for table in TABLES
        if not table.is_event
    }
    late = Drop(drops[-1].day + 10 * DAY, {t.name: [] for t in TABLES if t.is_event})
    for known in drops[0].files["users"]:
        for table in (t for t in TABLES if t.is_event):
            at = _near_an_edge(random, drops)
            event = _event(table, known["user_id"], f"{known['user_id']}-late")
            late.files[table.name].append(_row(random, table, event, late, at=at))
    return [Drop(old.day, again), late]


def write(drop: Drop, root: Path) -> Path:
    """The drop as a folder of CSV files under `root`."""
    folder = root / drop.day.isoformat()
    folder.mkdir(parents=True)
    for table in (t for t in TABLES if t.name in drop.files):
        with (folder / table.file).open("w", encoding="utf-8", newline="") as opened:
            writer = csv.DictWriter(opened, [column.name for column in table.columns])
            writer.writeheader()
            writer.writerows(drop.files[table.name])
    return folder


def _between(random: Random, start: datetime, end: datetime) -> datetime:
    """An instant in [start, end), often the first."""
    if random.random() < 0.3:
        return start
    return start + random.randrange((end - start) // MICROSECOND) * MICROSECOND


def _row(random: Random, table: Table, given: Row, drop: Drop, at: datetime | None = None) -> Row:
    row: Row = {}
    for column in table.columns:
        if column.name in given:
            row[column.name] = given[column.name]
        elif column.name == table.event_time:
            row[column.name] = at
        else:
            row[column.name] = _value(random, column, row, drop)
    return row


def _value(random: Random, column: Column, row: Row, drop: Drop) -> Any:
    if (column.nullable or column.optional) and random.random() < 0.15:
        return None
    if column.values:
        return random.choice(column.values)
    if column.type is DATE:
        return drop.day - random.randrange(1, 1000) * DAY
    if column.type is INSTANT:
        earliest = row.get(column.not_before) or drop.end - 100 * DAY
        return min(
            earliest + random.choice([0, random.random() * 60]) * DAY, drop.end - MICROSECOND
        )
    kind, is_array = column.type.sql.removesuffix("[]"), column.type.sql.endswith("[]")
    if is_array:
        return json.dumps([_plain(random, kind) for _ in range(random.randrange(4))])
    if kind in ("text", "uuid") or column.entity:
        return _named(column, f"{column.entity or column.name}-{random.randrange(OTHERS)}")
    return _plain(random, kind)


def _plain(random: Random, kind: str) -> Any:
    """A value of a type, as JSON and CSV write it alike."""
    if kind == "boolean":
        return random.random() < 0.5
    if kind == "bigint":
        return random.randrange(1000)
    if kind == "double precision":
        return random.random() * 100
    if kind == "text":
        return f"text-{random.randrange(5)}"
    if kind == "jsonb":
        return json.dumps({"n": random.randrange(5)})
    precision, scale = (int(n) for n in kind.removeprefix("numeric(").rstrip(")").split(","))
    return Decimal(random.randrange(10 ** min(precision, scale + 3))).scaleb(-scale)


def _named(column: Column, name: str) -> Any:
    """A key by its name, in the type of its column."""
    if column.type.sql == "bigint":
        return zlib.crc32(name.encode())
    return uuid.uuid5(uuid.NAMESPACE_OID, name) if column.type.sql == "uuid" else name
