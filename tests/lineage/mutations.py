"""Drops in which every raw column has users of its own, and the same with each column changed.

A column's group is three users whose rows and devices mix with nobody else's. In the changed drops
that one column has other values in the group's rows, and nothing else is different: what then
changes in the group's features is what the column goes into, however the SQL is read.
"""

from __future__ import annotations

import csv
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

from data.contract import declared

DAY = timedelta(days=1)
FIRST, SECOND = date(2024, 1, 31), date(2024, 9, 30)  # aggregates alone; events of 200 days
MIDNIGHT = datetime(2024, 9, 30, tzinfo=timezone.utc)
TABLES = {table.name: [column.name for column in table.columns] for table in declared()}
GROUPS = [(table, column) for table, columns in TABLES.items() for column in columns]
AGGREGATES = [table.name for table in declared() if not table.is_event and "agg" in table.name]
EVENTS = [table.name for table in declared() if table.is_event]
OTHER = {
    "failed": "succeeded",
    "succeeded": "failed",
    "ticket/billing": "complaint/playback",
    "complaint/content": "ticket/playback",
}
Rows = list[dict[str, Any]]


def prefix(group: tuple[str, str]) -> str:
    """What every id of a group begins with."""
    return f"g{GROUPS.index(group):03d}-"


def _users(group: tuple[str, str]) -> list[str]:
    return [f"{prefix(group)}{name}" for name in "abc"]


def write(root: Path, *, changed: bool) -> list[Path]:
    """The drops as folders, oldest first; with `changed`, each group's column has other values."""
    folders = []
    for day in (FIRST, SECOND):
        folder = root / day.isoformat()
        folder.mkdir(parents=True)
        for table, columns in TABLES.items():
            if table in (EVENTS if day == FIRST else AGGREGATES):
                continue
            rows = [row for group in GROUPS for row in _rows(table, group, day, changed)]
            with (folder / f"{table}.csv").open("w", newline="", encoding="utf-8") as out:
                lines = [[_text(row[column]) for column in columns] for row in rows]
                csv.writer(out).writerows([columns, *lines])
        folders.append(folder)
    return folders


def _rows(table: str, group: tuple[str, str], day: date, changed: bool) -> Rows:
    users = _users(group)
    if table == "users" and day == FIRST:
        users = users[:2]  # the third came in between
    rows = [row for user in users for row in _of_user(table, user, day)]
    if changed and group[0] == table:
        _change(rows, table, group[1])
    return rows


def _of_user(table: str, user: str, day: date) -> Rows:
    who = "abc".index(user[-1])
    if table == "users":
        signup = date(2024, 5, 1) if who == 2 else date(2023, 3, 1 + who)
        values: dict[str, Any] = {
            "signup_date": signup, "user_gender": ["Female", "Male", None][who],
            "user_is_senior": who == 0, "has_family": who == 1, "has_dependents": who == 0,
        }  # fmt: skip
        return [{"user_id": user, **values}]
    if table == "subscriptions":
        values = {
            "months_active": 10 + who, "plan_stream_tv": who == 0, "plan_stream_movies": who == 1,
            "contract_type": ["One year", "Two year", "Month-to-month"][who],
            "paperless_billing": who == 0, "monthly_fee": Decimal(20 + who),
            "total_paid": Decimal(300 + who), "net_service": ["DSL", "No", "Fiber optic"][who],
        }  # fmt: skip
        return [] if who == 2 and day == FIRST else [{"user_id": user, **values}]
    if table == "labels":
        return [] if who == 2 and day == FIRST else [{"user_id": user, "churn_label": who == 0}]
    if table in AGGREGATES:
        if who == 2:
            return []
        return [{c: user if c == "user_id" else 3 + who for c in TABLES[table]}]
    return [_event(table, user, who, number) for number in range(8)]


def _event(table: str, user: str, who: int, number: int) -> dict[str, Any]:
    """Events inside of every window and outside, up to the day before as_of."""
    at = MIDNIGHT - [1, 2, 5, 12, 25, 45, 80, 150][number] * DAY - (who + 1) * timedelta(hours=2)
    row: dict[str, Any] = {"user_id": user}
    if table == "usage":
        device = [f"{user}-tv", f"{user}-phone", None][(number + who) % 3]
        device = f"{user}-radio" if number == 4 else device
        return row | {
            "session_id": f"{user}-s{number}", "started_at": at, "device_id": device,
            "watch_minutes": Decimal(10 + number), "skips": number + 1,
            "rebuffer_events": number % 3 + 1,
        }  # fmt: skip
    if table == "payments":
        return row | {
            "payment_id": f"{user}-p{number}", "attempted_at": at,
            "amount": Decimal(20 + number), "status": ["failed", "succeeded"][number % 2],
        }  # fmt: skip
    if number == 1:  # two at one instant: which is the newer is up to their ids
        at = MIDNIGHT - DAY - (who + 1) * timedelta(hours=2)
    category = ["ticket/billing", "complaint/content", "ticket/account"][number % 3]
    resolved = at + timedelta(hours=3 + number) if number % 4 != 3 else None
    return row | {
        "ticket_id": f"{user}-t{number}", "opened_at": at, "resolved_at": resolved,
        "category": category,
    }  # fmt: skip


def _change(rows: Rows, table: str, column: str) -> None:
    if column == "user_id" and table not in EVENTS:  # users exchange their rows
        first, second, *_ = rows
        first["user_id"], second["user_id"] = second["user_id"], first["user_id"]
        return
    for number, row in enumerate(rows):
        row[column] = _other(table, column, row, number)


def _other(table: str, column: str, row: dict[str, Any], number: int) -> Any:
    """Another value that the contract takes as well."""
    value = row[column]
    if column == "user_id":  # some events of the first user are the second's
        moved = (0, 4) if table == "usage" else (0, 3, 4)
        return f"{value[:-1]}b" if value.endswith("a") and number in moved else value
    if column.endswith("_id"):
        if column == "device_id":
            return f"{row['user_id']}-tablet" if number % 2 else value
        return f"{prefix((table, column))}z{99 - number}"  # the other way around
    if isinstance(value, bool):
        return not value
    if isinstance(value, datetime):
        earlier = [60, 0, 0, 0, 80, 60, 0, 60][number % 8] * DAY  # out of one window or another
        return value + timedelta(minutes=30) if column == "resolved_at" else value - earlier
    if isinstance(value, date):  # the third user signed up before the first drop after all
        return value - (150 if row["user_id"].endswith("c") else 1) * DAY
    if isinstance(value, int | Decimal):
        return value + 1
    if column in ("status", "category"):
        return OTHER.get(value, value)
    if column == "resolved_at":
        return row["opened_at"] + timedelta(hours=1)
    return "Other" if value else value


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, date) else str(value)
