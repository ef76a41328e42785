"""Random drops by the contract, and the same drops with another future: what leak_check loads.

Every declared column is drawn by its type, so that a new file or add-on column takes
part by itself. Events lie on the edges of windows far above their natural odds, most of all
exactly at an `as_of`. Each event is stated by one drop, its own or a later one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path
from random import Random
from typing import Any

from data.contract import Column, Table, declared
from data.contract.types import BOOLEAN, COUNT, DATE, DOUBLE, INSTANT

TABLES = declared()

DAY, MICROSECOND = timedelta(days=1), timedelta(microseconds=1)
FIRST = date(2023, 12, 31)
GAPS = (100, 91, 30, 31)  # days between the drops; the second-last is past the longest windows
WINDOWS = (0, 0, 0, 1, 7, 30, 60, 90, 180)
KEPT = 0.95  # of state rows, per drop
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
    for number in range(users):
        user = f"user-{number:04d}"
        for drop in drops:
            for table in TABLES:
                if not table.is_event and (drop.day == FIRST or random.random() < KEPT):
                    drop.files[table.name].append(_row(random, table, user, drop))
        for table in TABLES:
            for count in range(random.randint(2, 8) if table.is_event else 0):
                _add_event(random, drops, table, user, f"{user}-{count}")
    return drops


def _add_event(random: Random, drops: list[Drop], table: Table, user: str, key: str) -> None:
    """An event near some edge, stated by the drop it falls to or, late, by a later one."""
    possible: list[Drop] = []
    while not possible:
        at = _near_an_edge(random, drops)
        possible = [drop for drop in drops if at < drop.end and table.name in drop.files]
    drop = possible[0] if random.random() < 0.8 else random.choice(possible)
    row = _row(random, table, user, drop, at=at)
    drop.files[table.name].append({**row, table.key[0]: key})


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
        if drop.day < cut or (drop.day == cut and table.name != "labels"):
            return row
        return _row(random, table, row["user_id"], drop) if random.random() < 0.8 else None
    assert table.event_time is not None
    if row[table.event_time] >= limit:
        if random.random() < 0.5:
            return None
        moved = _between(random, limit, drop.end)
        (key,) = table.key
        return {**_row(random, table, row["user_id"], drop, at=moved), key: row[key]}
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
    users = sorted({row["user_id"] for row in drop.files[table.name]})
    for number, user in enumerate(users):
        at = midnight(cut) if number % 2 else _between(random, midnight(cut), drop.end)
        key = f"{user}-{drop.day}-new"
        yield {**_row(random, table, user, drop, at=at), table.key[0]: key}


def later_deliveries(random: Random, drops: list[Drop]) -> list[Drop]:
    """What arrives afterwards: an old drop's state again, corrected, and a drop of late events."""
    old = drops[len(drops) // 2]
    again = {
        table.name: [
            _row(random, table, row["user_id"], old) if random.random() < 0.5 else row
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
            row = _row(random, table, known["user_id"], late, at=at)
            late.files[table.name].append({**row, table.key[0]: f"{known['user_id']}-late"})
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


def _row(random: Random, table: Table, user: str, drop: Drop, at: datetime | None = None) -> Row:
    row: Row = {}
    for column in table.columns:
        if column.name == "user_id":
            row[column.name] = user
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
    if column.type.sql == "text":
        return f"{column.name}-{random.randrange(5)}"
    if column.type is BOOLEAN:
        return random.random() < 0.5
    if column.type is COUNT:
        return random.randrange(1000)
    if column.type is DOUBLE:
        return random.random() * 100
    if column.type is DATE:
        return drop.day - random.randrange(1, 1000) * DAY
    if column.type is INSTANT:
        earliest = row.get(column.not_before) or drop.end - 100 * DAY
        return min(
            earliest + random.choice([0, random.random() * 60]) * DAY, drop.end - MICROSECOND
        )
    return random.randrange(10_000) / 10  # decimals
