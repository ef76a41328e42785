"""Every feature a second time, in plain Python, from its description and not from the SQL.

Input is the sequence of drops in the order in which they were loaded; output is what every feature
table holds for every (user_id, as_of) once those loads are known. Slow and obvious on purpose:
integers are summed, one division ends each formula, and no window is shared between features.

A row is a dict with the columns of its file: instants are aware datetimes in UTC, dates are dates,
`watch_minutes` and `amount` Decimals, everything else str, int, float, bool or None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from tests.dbt.known import (
    DAY,
    MICROSECOND,
    Delivery,
    Known,
    Pair,
    Row,
    Values,
    midnight,
    seen_on,
    spine,
    within,
)


def milliseconds(rows: Iterable[Row]) -> int:
    """Time watched, in whole milliseconds."""
    total = 0
    for row in rows:
        exact = row["watch_minutes"] * 60000
        assert exact == int(exact), f"{row['watch_minutes']} minutes are no whole milliseconds"
        total += int(exact)
    return total


def whole_days_since(instants: Sequence[datetime], as_of: datetime) -> int | None:
    """Whole days from the newest of the instants to as_of; None when there is none."""
    return (as_of - max(instants)) // DAY if instants else None


def usage_features(known: Known, user: str, as_of: datetime) -> Values:
    """usage_features of one pair."""
    rows = known.of_user("usage", user)
    last_7, last_30, last_60, last_90 = (
        within(rows, "started_at", as_of, n) for n in (7, 30, 60, 90)
    )
    before_30 = [row for row in last_60 if row["started_at"] < as_of - 30 * DAY]
    devices = {row["device_id"] for row in last_30 if row["device_id"] is not None}

    def total(column: str) -> int | None:
        told = [row[column] for row in last_7 if row[column] is not None]
        return sum(told) if told or not last_7 else None

    event_based = {
        "watch_hours_30d": (30, milliseconds(last_30) / 3600000),
        "avg_session_mins_7d": (
            7,
            milliseconds(last_7) / (60000 * len(last_7)) if last_7 else None,
        ),
        "unique_devices_30d": (30, len(devices) if devices or not last_30 else None),
        "skips_7d": (7, total("skips")),
        "rebuffer_events_7d": (7, total("rebuffer_events")),
        "active_days_30d": (30, len({row["started_at"].date() for row in last_30})),
        "days_since_last_session": (
            90,
            whole_days_since([row["started_at"] for row in last_90], as_of),
        ),
        "watch_hours_trend_30d": (60, (milliseconds(last_30) - milliseconds(before_30)) / 3600000),
    }
    return _or_delivered(known, "usage", "usage_agg_30d", user, as_of, event_based)


RECORDED_IN = {
    "unique_devices_30d": "device_id",
    "skips_7d": "skips",
    "rebuffer_events_7d": "rebuffer_events",
}


def payment_features(known: Known, user: str, as_of: datetime) -> Values:
    """payment_features of one pair."""
    rows = known.of_user("payments", user)
    last_90 = within(rows, "attempted_at", as_of, 90)
    last_180 = within(rows, "attempted_at", as_of, 180)
    cents = sum(int(row["amount"] * 100) for row in last_90 if row["status"] == "succeeded")
    failed = [row["attempted_at"] for row in last_180 if row["status"] == "failed"]
    event_based = {
        "failed_payments_90d": (90, sum(row["status"] == "failed" for row in last_90)),
        "paid_amount_90d": (90, cents / 100),
        "days_since_last_failed_payment": (180, whole_days_since(failed, as_of)),
    }
    return _or_delivered(known, "payments", "payments_agg_90d", user, as_of, event_based)


def support_features(known: Known, user: str, as_of: datetime) -> Values:
    """support_features of one pair."""
    rows = known.of_user("support", user)
    last_90 = within(rows, "opened_at", as_of, 90)
    last_180 = within(rows, "opened_at", as_of, 180)

    def resolved(row: Row) -> bool:
        return row["resolved_at"] is not None and row["resolved_at"] < as_of

    newest = sorted(last_180, key=lambda row: (row["opened_at"], row["ticket_id"]), reverse=True)
    taken = [
        (row["resolved_at"] - row["opened_at"]) // MICROSECOND for row in last_90 if resolved(row)
    ]
    event_based = {
        "support_tickets_90d": (90, len(last_90)),
        "ticket_avg_resolution_hrs_90d": (
            90,
            sum(taken) / (3600000000 * len(taken)) if taken else None,
        ),
        "open_tickets": (180, sum(not resolved(row) for row in last_180)),
        "complaints_90d": (90, sum(row["category"].startswith("complaint/") for row in last_90)),
        "last_categories": (180, [row["category"] for row in newest[:3]]),
    }
    return _or_delivered(known, "support", "support_agg_90d", user, as_of, event_based)


def _or_delivered(
    known: Known,
    events: str,
    aggregate: str,
    user: str,
    as_of: datetime,
    event_based: Mapping[str, tuple[int, Any]],
) -> Values:
    """Column -> value: from events where they cover its window, else as delivered, else None."""
    drop = next((day for day in known.drops if midnight(day) == as_of), None)
    delivered = known.state.get((aggregate, user, drop), {}) if drop else {}
    return {
        column: value
        if known.covered(events, as_of, days, RECORDED_IN.get(column))
        else delivered.get(column)
        for column, (days, value) in event_based.items()
    }


def user_features(
    known: Known, user: str, as_of: datetime, signup: date, state: date | None
) -> Values:
    """user_features of one pair; `state` is the drop that describes the user."""
    row = known.state.get(("users", user, state), {}) if state else {}
    columns = ("user_gender", "user_is_senior", "has_family", "has_dependents")
    return {
        **{column: row.get(column) for column in columns},
        "tenure_days": (as_of.date() - signup).days,
        "signup_date": signup,
    }


SUBSCRIPTION_COLUMNS = (
    "months_active",
    "monthly_fee",
    "total_paid",
    "paperless_billing",
    "plan_stream_tv",
    "plan_stream_movies",
    "net_service",
    "contract_type",
)


def subscription_features(known: Known, user: str, state: date | None) -> Values:
    """subscription_features of one pair; `state` is the drop that describes the user."""
    row = known.state.get(("subscriptions", user, state), {}) if state else {}
    paid = row.get("total_paid")
    return {
        **{column: row.get(column) for column in SUBSCRIPTION_COLUMNS},
        "total_paid_exact": None if paid is None else Decimal(f"{paid:.2f}"),
    }


def device_features(known: Known, sessions: Sequence[Row], as_of: datetime) -> Values:
    """device_features of one pair; `sessions` are those of the 90 days before as_of."""
    last_30 = within(sessions, "started_at", as_of, 30)
    stalls = [r["rebuffer_events"] for r in last_30 if r["rebuffer_events"] is not None]
    devices = known.covered("usage", as_of, 30, "device_id")
    told = devices and known.covered("usage", as_of, 30, "rebuffer_events")
    return {
        "users_30d": len({row["user_id"] for row in last_30}) if devices else None,
        "device_watch_hours_30d": milliseconds(last_30) / 3600000 if devices else None,
        "rebuffers_per_session_30d": sum(stalls) / len(stalls) if stalls and told else None,
    }


def user_device_features(
    known: Known, user: str, sessions: Sequence[Row], as_of: datetime
) -> Values:
    """user_device_features of one pair; `sessions` are those of the 90 days before as_of."""
    here = milliseconds(within(sessions, "started_at", as_of, 30))
    everywhere = milliseconds(within(known.of_user("usage", user), "started_at", as_of, 30))
    last = max(row["started_at"] for row in sessions)
    share = here / everywhere if everywhere else None
    return {
        "watch_share_30d": share if known.covered("usage", as_of, 30, "device_id") else None,
        "last_seen_at": last if known.covered("usage", as_of, 90, "device_id") else None,
    }


def features(
    deliveries: Iterable[Delivery], cadence: str = "drops"
) -> dict[str, dict[Pair, Values]]:
    """Table -> (keys, as_of) -> column -> value, once these deliveries are known."""
    known = Known(deliveries)
    tables: dict[str, dict[Pair, Values]] = {
        "user_features": {},
        "subscription_features": {},
        "usage_features": {},
        "payment_features": {},
        "support_features": {},
        "device_features": {
            (device, as_of): device_features(known, sessions, as_of)
            for (device, as_of), sessions in seen_on(known, ["device_id"], 90, cadence).items()
        },
        "user_device_features": {
            (user, device, as_of): user_device_features(known, user, sessions, as_of)
            for (user, device, as_of), sessions in seen_on(
                known, ["user_id", "device_id"], 90, cadence
            ).items()
        },
        "churn_labels": {
            (user, midnight(day)): {"churn_label": row["churn_label"]}
            for (table, user, day), row in known.state.items()
            if table == "labels"
        },
    }
    for (user, as_of), (signup, state) in spine(known, cadence).items():
        pair = (user, as_of)
        tables["user_features"][pair] = user_features(known, user, as_of, signup, state)
        tables["subscription_features"][pair] = subscription_features(known, user, state)
        tables["usage_features"][pair] = usage_features(known, user, as_of)
        tables["payment_features"][pair] = payment_features(known, user, as_of)
        tables["support_features"][pair] = support_features(known, user, as_of)
    return tables
