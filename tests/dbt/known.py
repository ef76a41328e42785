"""What is known after some deliveries, in plain Python: drops, rows in effect, as_of's and spine.

The half of the oracle (oracle.py) that comes before any feature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from typing import Any

Row = Mapping[str, Any]
Pair = tuple[Any, ...]  # the entity's join keys, then as_of
Values = dict[str, Any]

STATE = ("users", "subscriptions", "labels")
AGGREGATES = ("usage_agg_30d", "payments_agg_90d", "support_agg_90d")
TIMES = {"usage": "started_at", "payments": "attempted_at", "support": "opened_at"}
EVENT_KEYS = {"usage": "session_id", "payments": "payment_id", "support": "ticket_id"}
MAY_BE_UNRECORDED = [("usage", column) for column in ("device_id", "skips", "rebuffer_events")]
DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Delivery:
    """One drop folder as loaded: its date, and the files it held (a missing file has no key)."""

    as_of: date
    files: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    lacking: frozenset[tuple[str, str]] = frozenset()  # (file, column) that the file does not have


def midnight(day: date) -> datetime:
    """The instant a date begins, UTC."""
    return datetime.combine(day, time(), timezone.utc)


class Known:
    """What is known after some deliveries: the drops, their files, and the rows in effect."""

    def __init__(self, deliveries: Iterable[Delivery]) -> None:
        self.files: dict[date, dict[str, list[Row]]] = {}
        self.recorded: set[tuple[date, str, str]] = set()  # by some delivery of the drop's file
        for delivery in deliveries:  # a file delivered again replaces the one before
            self.recorded |= {
                (delivery.as_of, table, column)
                for table, column in MAY_BE_UNRECORDED
                if table in delivery.files and (table, column) not in delivery.lacking
            }
            drop = self.files.setdefault(delivery.as_of, {})
            drop.update({table: list(rows) for table, rows in delivery.files.items()})
        self.drops = sorted(self.files)

        self.state: dict[tuple[str, str, date], Row] = {
            (table, row["user_id"], day): row
            for day, files in self.files.items()
            for table in (*STATE, *AGGREGATES)
            for row in files.get(table, ())
        }
        self.events: dict[str, dict[str, Row]] = {
            table: {
                row[key]: row  # the newest drop that still states an event speaks last
                for day in self.drops
                for row in self.files[day].get(table, ())
            }
            for table, key in EVENT_KEYS.items()
        }
        self.stated_by: dict[tuple[str, str], date] = {
            (table, row[key]): day
            for day in self.drops
            for table, key in EVENT_KEYS.items()
            for row in self.files[day].get(table, ())
        }
        self._covered: dict[tuple[str, datetime, int, str | None], bool] = {}
        self._by_user: dict[tuple[str, str], list[Row]] = {}
        for table, rows in self.events.items():
            for row in rows.values():
                self._by_user.setdefault((table, row["user_id"]), []).append(row)

    def with_users(self) -> list[date]:
        """The drops that have a users file, oldest first."""
        return [day for day in self.drops if "users" in self.files[day]]

    def of_user(self, table: str, user_id: str) -> list[Row]:
        """A user's events in effect."""
        return self._by_user.get((table, user_id), [])

    def covered(self, table: str, as_of: datetime, days: int, column: str | None = None) -> bool:
        """Whether event capture, of that column if one is named, covers [as_of - days, as_of).

        Drop D holds what happened since the drop before it; the first drop, everything before.
        """
        window = (table, as_of, days, column)
        if window not in self._covered:
            self._covered[window] = self._is_covered(*window)
        return self._covered[window]

    def _is_covered(self, table: str, as_of: datetime, days: int, column: str | None) -> bool:
        if not any(midnight(day) >= as_of for day in self.drops):
            return False
        since: datetime | None = None
        for day in self.drops:
            starts_before_as_of = since is None or since < as_of
            ends_in_window = midnight(day) > as_of - days * DAY
            captured = table in self.files[day] and (
                column is None or (day, table, column) in self.recorded
            )
            if starts_before_as_of and ends_in_window and not captured:
                return False
            since = midnight(day)
        return True


def calendar(first: date, last: date, cadence: str) -> list[date]:
    """The dates of a calendar cadence from `first` to `last`, both included."""
    starts = {
        "day": lambda day: True,
        "week": lambda day: day.weekday() == 0,
        "month": lambda day: day.day == 1,
    }[cadence]
    days = [first + n * DAY for n in range((last - first).days + 1)]
    return [day for day in days if starts(day)]


def calendar_start(known: Known) -> datetime:
    """Where a calendar begins: with the events of the first drop that somebody can have had.

    Of a thousand events one may lie before it.
    """
    first = known.with_users()[0]
    instants = sorted(
        row[TIMES[table]]
        for table, rows in known.events.items()
        for event, row in rows.items()
        if known.stated_by[table, event] == first
    )
    if not instants:
        return midnight(first)
    rare = max(1, -(-len(instants) // 1000))
    signups = [row["signup_date"] for row in known.files[first]["users"]]
    user_since = [midnight(min(signups) + DAY)] if signups else []
    return min(midnight(first), max([instants[rare - 1] + MICROSECOND, *user_since]))


def as_ofs(known: Known, cadence: str = "drops") -> list[datetime]:
    """The instants that features are computed for."""
    drops = known.with_users()
    if cadence == "drops" or not drops:
        return [midnight(day) for day in drops]
    start = calendar_start(known)
    if cadence == "hour":
        days = [midnight(day) for day in calendar(start.date(), drops[-1], "day")]
        instants = [day + hour * timedelta(hours=1) for day in days for hour in range(24)]
    else:
        instants = [midnight(day) for day in calendar(start.date(), drops[-1], cadence)]
    return [instant for instant in instants if start <= instant <= midnight(drops[-1])]


def seen_on(
    known: Known, keys: Sequence[str], days: int, cadence: str = "drops"
) -> dict[Pair, list[Row]]:
    """(keys, as_of) of those with a session in the `days` before as_of -> these sessions."""
    found: dict[Pair, list[Row]] = {}
    for as_of in as_ofs(known, cadence):
        for row in within(known.events["usage"].values(), "started_at", as_of, days):
            key = tuple(row[column] for column in keys)
            if None not in key:
                found.setdefault((*key, as_of), []).append(row)
    return found


def spine(known: Known, cadence: str = "drops") -> dict[Pair, tuple[date, date | None]]:
    """(user_id, as_of) -> (the user's signup date, date of the drop that describes the state).

    No drop describes the state before the first one.
    """
    drops = known.with_users()
    pairs: dict[Pair, tuple[date, date | None]] = {}
    for as_of in as_ofs(known, cadence):
        day = as_of.date()
        before = max((drop for drop in drops if midnight(drop) <= as_of), default=None)
        after = min((drop for drop in drops if midnight(drop) > as_of), default=None)
        if after is not None and (before is None or midnight(before) < as_of):
            for row in known.files[after]["users"]:  # signed up since the drop before
                if (before is None or before <= row["signup_date"]) and row["signup_date"] < day:
                    pairs[row["user_id"], as_of] = (row["signup_date"], before)
        for row in known.files[before]["users"] if before is not None else ():
            if row["signup_date"] < day:
                pairs[row["user_id"], as_of] = (row["signup_date"], before)
            else:
                pairs.pop((row["user_id"], as_of), None)
    return pairs


def within(rows: Iterable[Row], column: str, as_of: datetime, days: int) -> list[Row]:
    """The rows whose instant lies in [as_of - days, as_of)."""
    return [row for row in rows if as_of - days * DAY <= row[column] < as_of]
