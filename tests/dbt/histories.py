"""Random histories of users over several drops, as deliveries in the order they arrive.

One calendar of drops is shared by many histories, because every user of a build shares it; each
history is a handful of users (`h007-a`, `h007-b`, `h007-c`) whose events never mix with another's,
so that a failing history can be shown alone. Drawn on purpose, far above their natural odds:
instants on the edge of a window, late rows, the same row in two drops, corrections (new values,
another time, another user), drops delivered again with rows changed, added or taken away, or with
further files, drops that arrive out of order, missing files, and aggregates beside events.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

from data.contract import declared
from tests.dbt.known import (
    AGGREGATES,
    DAY,
    EVENT_KEYS,
    MICROSECOND,
    STATE,
    Delivery,
    calendar,
    midnight,
)

CONTRACT = {table.name: table for table in declared()}
COLUMNS = {table.name: [column.name for column in table.columns] for table in declared()}
WINDOWS = (0, 1, 7, 30, 60, 90, 180)
GAPS = (1, 3, 7, 7, 8, 28, 29, 30, 30, 31, 60, 60, 90, 90, 91)
WINDOWS_OF_FILES = (
    *(("usage", days) for days in (7, 30, 60, 90)),
    *(("payments", 90), ("support", 90)) * 2,
)
DELIVERED = dict(zip(EVENT_KEYS, AGGREGATES, strict=True))
FIRST_DROPS = (date(2023, 12, 31), *(date(2024, 1, 29) + n * DAY for n in range(5)))
# A daily calendar of a year of drops would be all that the database does: keep it short.
LONGEST = {"drops": 100, "month": 100, "week": 40, "day": 10, "hour": 7}  # between two drops, days
# How long before the first drop people signed up: a calendar reaches back as far.
SIGNED_UP = {"day": (0, 1, 1, 7, 30), "hour": (0, 1, 1, 2)}


@dataclass(frozen=True)
class Drawn:
    """Deliveries in order of arrival, and after how many of them to build (the last: after all)."""

    seed: int
    cadence: str
    deliveries: tuple[Delivery, ...]
    builds: tuple[int, ...]


def draw(seed: int, users: int, cadence: str = "drops") -> Drawn:
    """A calendar of drops and `users` histories over it, from the seed alone."""
    random = Random(seed)
    drops, lacking, missing = _drops(random, LONGEST[cadence])
    plan, stops = _plan(random, drops, lacking, missing)
    steps = "day" if cadence == "hour" else cadence
    as_ofs = drops if cadence == "drops" else calendar(drops[0], drops[-1], steps)
    before = SIGNED_UP.get(cadence, (0, 1, 1, 100, 1000))
    told = [
        _History(Random(f"{seed}/{number}"), f"h{number:03d}", drops, as_ofs, before).tell(plan)
        for number in range(users)
    ]
    deliveries = tuple(
        _delivery(
            random, day, {file: [row for rows in of_drop for row in rows[file]] for file in files}
        )
        for (day, files), of_drop in zip(plan, zip(*told, strict=True), strict=True)
    )
    return Drawn(seed, cadence, deliveries, stops)


def _delivery(random: Random, day: date, files: dict[str, list[dict[str, Any]]]) -> Delivery:
    """A delivery; now and then its sessions lack a column, in the file or in what it holds."""
    empty, lacking = (
        {c for c in ("device_id", "skips", "rebuffer_events") if random.random() < 0.1}
        for _ in range(2)
    )
    if "usage" in files:
        nothing = dict.fromkeys(empty | lacking)
        files["usage"] = [{**row, **nothing} for row in files["usage"]]
    return Delivery(day, files, frozenset(("usage", c) for c in lacking if "usage" in files))


def _drops(random: Random, longest: int) -> tuple[list[date], date, str]:
    """Dates of five drops; one of them, and the event file that it lacks at first.

    From that one to the next drop it is as many days as one of the file's windows.
    """
    drops = [random.choice(FIRST_DROPS)]
    place = random.randint(1, 3)
    missing, window = random.choice([(f, n) for f, n in WINDOWS_OF_FILES if n <= longest])
    for number in range(4):
        gap = random.choice([n for n in GAPS if n <= longest])
        drops.append(drops[-1] + (window if number == place else gap) * DAY)
    return drops, drops[place], missing


def _plan(
    random: Random, drops: Sequence[date], lacking: date, missing: str
) -> tuple[list[tuple[date, tuple[str, ...]]], tuple[int, ...]]:
    """Which drop arrives when and with which files, and after how many of them to build.

    The first names the users there are. What covers a window follows from the drops alone, and a
    round has only one calendar of drops: so in every round a drop that lacks an event file comes
    after later drops were built, and brings the file after that was built; and the first drop has
    an aggregate instead of events, which is corrected in between.
    """
    had: dict[date, set[str]] = {}
    for day in drops:
        files = {file for file in AGGREGATES if random.random() < 0.5} | set(EVENT_KEYS)
        if random.random() < 0.25:
            files.remove(random.choice(list(EVENT_KEYS)))
        had[day] = files | {file for file in STATE if random.random() < 0.9 or day == drops[0]}
    had[lacking].discard(missing)
    delivered = random.choice([agg for file, agg in DELIVERED.items() if file != missing])
    had[drops[0]] -= {file for file, agg in DELIVERED.items() if agg == delivered}
    had[drops[0]].add(delivered)

    def again() -> tuple[date, set[str]]:
        day = random.choice(drops[1:])
        some = {file for file in had[day] if random.random() < 0.6}
        return day, some | {"users", random.choice(sorted(had[day] & set(EVENT_KEYS)))}

    others = [day for day in drops[1:] if day != lacking]
    random.shuffle(others)
    plan = [(day, had[day]) for day in (drops[0], *others)]
    stops = [len(plan)]
    plan += [(lacking, had[lacking]), again(), (drops[0], {delivered, "labels"})]
    stops.append(len(plan))
    plan += [(lacking, {missing, random.choice(AGGREGATES)})]
    plan += [again() for _ in range(random.randint(0, 1))]
    stops.append(len(plan))
    return [(day, tuple(sorted(files))) for day, files in plan], tuple(stops)


def reorder(seed: int, deliveries: Sequence[Delivery]) -> tuple[Delivery, ...]:
    """Another order of arrival: each drop's own deliveries stay in order, the first stays first."""
    random = Random(seed)
    waiting: dict[date, list[Delivery]] = {}
    for delivery in deliveries[1:]:
        waiting.setdefault(delivery.as_of, []).append(delivery)
    turns = [delivery.as_of for delivery in deliveries[1:]]
    random.shuffle(turns)
    return (deliveries[0], *(waiting[day].pop(0) for day in turns))


class _History:
    """A few users' rows: what each drop says now, and what a delivery makes of it."""

    def __init__(
        self,
        random: Random,
        name: str,
        drops: Sequence[date],
        as_ofs: Sequence[date],
        before: Sequence[int],
    ) -> None:
        self.random, self.name, self.drops, self.as_ofs = random, name, drops, as_ofs
        self.settled = [f"{name}-a", f"{name}-b"]  # in the first drop, so always known
        self.late = f"{name}-c"  # signs up between the drops
        between = drops[0] + random.randrange(max(1, (drops[-1] - drops[0]).days)) * DAY
        self.late_signup = random.choice([between, random.choice(drops[:-1])])
        self.signup = {user: drops[0] - random.choice(before) * DAY for user in self.settled}
        self.before = before
        self.rows: dict[tuple[date, str], list[dict[str, Any]]] = {}
        self.ids: dict[str, list[dict[str, Any]]] = {table: [] for table in EVENT_KEYS}

    def tell(self, plan: Sequence[tuple[date, tuple[str, ...]]]) -> list[dict[str, list[dict]]]:
        """For every delivery of the plan, file -> this history's rows."""
        return [
            # users.csv first: the others may name only users whom the loader knows
            {file: self._file(day, file) for file in sorted(files, key=lambda f: f != "users")}
            for day, files in plan
        ]

    def _file(self, day: date, file: str) -> list[dict[str, Any]]:
        before = self.rows.get((day, file))
        if before is None:
            rows = self._new(day, file)
        elif self.random.random() < 0.5:
            rows = before  # the drop comes again for another history's sake
        else:
            rows = self._changed(day, file, before)
        self.rows[day, file] = rows
        return [dict(row) for row in rows]

    def _users(self, day: date) -> list[str]:
        """Users that a file of this drop may name."""
        listed = [row["user_id"] for row in self.rows.get((day, "users"), ())]
        return sorted({*self.settled, *listed})

    def _new(self, day: date, file: str) -> list[dict[str, Any]]:
        random = self.random
        if file == "users":
            users = list(self.settled)
            if day != self.drops[0]:
                users = [user for user in users if random.random() < 0.9]
            if self.late_signup <= day and random.random() < 0.7:
                users.append(self.late)
            return [self._user(user, day) for user in users]
        if file not in EVENT_KEYS:
            return [self._values(u, file) for u in self._users(day) if random.random() < 0.85]
        rows = {}
        for _ in range(random.choice([0, 1, 2, 3, 5])):
            row = self._event(day, file)
            rows[row[EVENT_KEYS[file]]] = row
        return list(rows.values())

    def _changed(self, day: date, file: str, before: list[dict]) -> list[dict[str, Any]]:
        """The file as the same drop delivers it again: rows gone, rows corrected, rows new."""
        random, kept = self.random, []
        protected = {self.late, *(self.settled if day == self.drops[0] else ())}
        for row in before:
            chance = random.random()
            if chance < 0.25 and not (file == "users" and row["user_id"] in protected):
                continue
            kept.append(self._corrected(day, file, row) if chance > 0.7 else row)
        key = EVENT_KEYS.get(file, "user_id")
        known = {row[key] for row in kept}
        return kept + [row for row in self._new(day, file) if row[key] not in known]

    def _corrected(self, day: date, file: str, row: dict[str, Any]) -> dict[str, Any]:
        if file == "users":
            return self._user(row["user_id"], day)
        if file not in EVENT_KEYS:
            return self._values(row["user_id"], file)
        key = EVENT_KEYS[file]
        fresh = {**self._event_values(day, file), key: row[key]}
        moved = self.random.choice(["time", "user", "values", "all"])
        if moved != "all":
            time = list(row)[2]  # the third column of every event file
            kept = {"time": {time}, "user": {"user_id"}, "values": set(row) - {time, "user_id"}}
            fresh = {c: fresh[c] if c in kept[moved] else value for c, value in row.items()}
        if file == "support" and fresh["resolved_at"] is not None:
            fresh["resolved_at"] = max(fresh["resolved_at"], fresh["opened_at"])
        if row["user_id"] == self.late and self.late not in self._users(day):
            fresh["user_id"] = self.settled[0]
        self.ids[file].append(fresh)
        return fresh

    def _event(self, day: date, file: str) -> dict[str, Any]:
        """A new event, or one that some drop stated already: the same, or corrected."""
        random, end = self.random, midnight(day) + DAY
        stated = [
            row
            for row in self.ids[file]
            if all(not isinstance(v, datetime) or v < end for v in row.values())
            and row["user_id"] in self._users(day)
        ]
        if stated and random.random() < 0.3:
            row = random.choice(stated)
            return row if random.random() < 0.4 else self._corrected(day, file, row)
        number = len(self.ids[file])
        row = {**self._event_values(day, file), EVENT_KEYS[file]: f"{self.name}-{file[:2]}{number}"}
        self.ids[file].append(row)
        return row

    def _instant(self, day: date) -> datetime:
        """An instant up to the end of the drop's date, most often on the edge of some window."""
        random, end = self.random, midnight(day) + DAY
        while True:
            edge = midnight(random.choice(self.as_ofs)) - random.choice(WINDOWS) * DAY
            hours = random.random() * DAY
            near = random.choice([timedelta(0), -MICROSECOND, MICROSECOND, hours, -hours])
            if random.random() < 0.2:
                edge, near = midnight(day), -random.random() * 120 * DAY
            if edge + near < end:
                return edge + near

    def _event_values(self, day: date, file: str) -> dict[str, Any]:
        random = self.random
        row: dict[str, Any] = dict.fromkeys(COLUMNS[file])
        row["user_id"] = random.choice(self._users(day))
        if file == "usage":
            row["started_at"] = self._instant(day)
            row["device_id"] = random.choice([None, *(f"{self.name}-{d}" for d in ("tv", "phone"))])
            row["watch_minutes"] = Decimal(random.choice([0, 1, 999, 412345, 10**7])) / 10000
            row["watch_minutes"] += random.randrange(100)
            row["skips"] = random.choice([None, 0, 1, 17])
            row["rebuffer_events"] = random.choice([None, 0, 2, 2**40])
        elif file == "payments":
            row["attempted_at"] = self._instant(day)
            row["amount"] = Decimal(random.choice([0, 1, 10, 20, 2985, 10**9 + 7])) / 100
            row["status"] = random.choice(["succeeded", "failed"])
        else:
            row["opened_at"] = self._instant(day)
            if random.random() < 0.7:
                row["resolved_at"] = max(self._instant(day), row["opened_at"])
            topic = random.choice(["billing", "playback", "account", "content"])
            row["category"] = f"{random.choice(['ticket', 'complaint'])}/{topic}"
        return row

    def _user(self, user: str, day: date) -> dict[str, Any]:
        random = self.random
        signup = self.signup.get(user, self.late_signup)
        if user in self.signup and random.random() < 0.15:
            again = [0, 1, 2, min(40, max(self.before))]
            signup = day - random.choice(again) * DAY  # corrected, or signed up again
        return {
            "user_id": user,
            "signup_date": min(signup, day),
            "user_gender": random.choice(["Female", "Male", None]),
            "user_is_senior": random.choice([True, False, None]),
            "has_family": random.choice([True, False, None]),
            "has_dependents": random.choice([True, False, None]),
        }

    def _values(self, user: str, file: str) -> dict[str, Any]:
        """A row of subscriptions, labels or an aggregate."""
        random = self.random
        texts = {
            "net_service": ["DSL", "Fiber optic", "No", None],
            "contract_type": ["Month-to-month", "One year", "Two year", None],
        }
        kinds = {
            "boolean": [True, False, None],
            "count": [0, 1, 2, None],
            "decimal": [0.1, 29.85, 99.99, 1889.5, None],
            "double": [0.1, 24.483650766787413, 1 / 3, 0.0, None],
        }
        row: dict[str, Any] = {"user_id": user}
        for column in CONTRACT[file].columns[1:]:
            values = texts.get(column.name) or kinds[column.type.name]
            row[column.name] = random.choice(values if column.nullable else values[:-1])
        return row


def text(value: Any, random: Random) -> str:
    """A value as a delivery writes it; an instant in one of the spellings that mean the same."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        offset = random.choice([0, 0, 330, -480])
        local = value.astimezone(timezone(timedelta(minutes=offset)))
        if offset == 0 and random.random() < 0.5:
            return local.replace(tzinfo=None).isoformat()
        return local.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    return repr(value) if isinstance(value, float) else str(value)


def write(root: Path, delivery: Delivery, seed: int = 0) -> Path:
    """The delivery as a drop folder under `root`; event rows in any order, some of them twice."""
    random = Random(f"{seed}/{delivery.as_of}")
    folder = root / delivery.as_of.isoformat()
    folder.mkdir(parents=True)
    for file, rows in delivery.files.items():
        columns = [c for c in COLUMNS[file] if (file, c) not in delivery.lacking]
        lines = [[text(row[column], random) for column in columns] for row in rows]
        if file in EVENT_KEYS:
            lines += random.sample(lines, len(lines) // 10)
            random.shuffle(lines)
        with (folder / f"{file}.csv").open("w", newline="", encoding="utf-8") as out:
            csv.writer(out, lineterminator="\n").writerows([columns, *lines])
    return folder
