"""The oracle, against rows computed by hand: if it is wrong, the property test proves nothing."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from tests.dbt.known import DAY, MICROSECOND, Delivery, Known, Row, calendar, midnight, spine
from tests.dbt.oracle import features

MARCH = date(2024, 3, 1)  # 30 days back is 31 January: the leap day lies between
AS_OF = midnight(MARCH)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def user(user_id: str = "u", signup: str = "2020-01-01", **more: Any) -> Row:
    row = {
        "user_id": user_id,
        "signup_date": date.fromisoformat(signup),
        "user_gender": "Female",
        "user_is_senior": False,
        "has_family": True,
        "has_dependents": None,
    }
    return {**row, **more}


def session(started_at: datetime, minutes: str = "1", session_id: str = "s", **more: Any) -> Row:
    row = {
        "session_id": session_id,
        "user_id": "u",
        "started_at": started_at,
        "device_id": "tv",
        "watch_minutes": Decimal(minutes),
        "skips": 1,
        "rebuffer_events": 1,
    }
    return {**row, **more}


def payment(attempted_at: datetime, amount: str, status: str, payment_id: str = "p") -> Row:
    return {
        "payment_id": payment_id,
        "user_id": "u",
        "attempted_at": attempted_at,
        "amount": Decimal(amount),
        "status": status,
    }


def ticket(
    opened_at: datetime,
    resolved_at: datetime | None = None,
    category: str = "ticket/billing",
    ticket_id: str = "t",
) -> Row:
    return {
        "ticket_id": ticket_id,
        "user_id": "u",
        "opened_at": opened_at,
        "resolved_at": resolved_at,
        "category": category,
    }


def drop(as_of: date = MARCH, **files: list[Row]) -> Delivery:
    return Delivery(as_of, {"users": [user()], "usage": [], "payments": [], "support": [], **files})


def of(table: str, *deliveries: Delivery, as_of: datetime = AS_OF, user_id: str = "u") -> Any:
    return features(deliveries)[table][user_id, as_of]


@pytest.mark.parametrize(
    ("started_at", "hours"),
    [
        (AS_OF, 0.0),
        (AS_OF - MICROSECOND, 1.0),
        (AS_OF - 30 * DAY, 1.0),
        (at("2024-01-31T00:00:00"), 1.0),  # the same instant, said by the calendar
        (AS_OF - 30 * DAY - MICROSECOND, 0.0),
        (AS_OF - 30 * DAY + MICROSECOND, 1.0),
        (at("2024-02-29T23:59:59.999999"), 1.0),
        (at("2024-02-29T00:00:00"), 1.0),
    ],
)
def test_a_window_starts_n_days_before_as_of_and_ends_before_it(started_at, hours):
    found = of("usage_features", drop(usage=[session(started_at, "60")]))
    assert found["watch_hours_30d"] == hours
    assert found["active_days_30d"] == (1 if hours else 0)


@pytest.mark.parametrize(
    ("table", "days", "column", "rows"),
    [
        ("usage", 7, "skips_7d", lambda t: [session(t)]),
        ("usage", 7, "rebuffer_events_7d", lambda t: [session(t)]),
        ("usage", 30, "unique_devices_30d", lambda t: [session(t)]),
        ("payments", 90, "failed_payments_90d", lambda t: [payment(t, "1", "failed")]),
        ("support", 90, "support_tickets_90d", lambda t: [ticket(t)]),
        ("support", 90, "complaints_90d", lambda t: [ticket(t, category="complaint/content")]),
        ("support", 180, "open_tickets", lambda t: [ticket(t)]),
    ],
)
def test_counting_windows_are_half_open(table, days, column, rows):
    model = {"usage": "usage_features", "payments": "payment_features"}.get(
        table, "support_features"
    )
    start = AS_OF - days * DAY
    for instant, expected in [
        (start - MICROSECOND, 0),
        (start, 1),
        (start + MICROSECOND, 1),
        (AS_OF - MICROSECOND, 1),
        (AS_OF, 0),
        (AS_OF + MICROSECOND, 0),
    ]:
        assert of(model, drop(**{table: rows(instant)}))[column] == expected, instant


@pytest.mark.parametrize(
    ("started_at", "days"),
    [
        (AS_OF - MICROSECOND, 0),
        (AS_OF - DAY, 1),
        (AS_OF - DAY - MICROSECOND, 1),
        (AS_OF - DAY + MICROSECOND, 0),
        (AS_OF - 90 * DAY, 90),
        (AS_OF - 90 * DAY - MICROSECOND, None),
        (AS_OF, None),
    ],
)
def test_days_since_the_last_session_are_whole_days(started_at, days):
    rows = [session(started_at), session(AS_OF + DAY, session_id="later")]
    assert of("usage_features", drop(usage=rows))["days_since_last_session"] == days


def test_usage_of_an_ordinary_month():
    rows = [
        session(
            at("2024-02-28T10:00:00"), "30.5", "s1", device_id="tv", skips=2, rebuffer_events=None
        ),
        session(
            at("2024-02-28T23:00:00"), "0.0001", "s2", device_id=None, skips=None, rebuffer_events=4
        ),
        session(
            at("2024-02-29T01:00:00"), "90", "s3", device_id="phone", skips=3, rebuffer_events=0
        ),
        session(at("2024-02-05T01:00:00"), "10", "s4", device_id="phone", skips=50),
        session(at("2024-01-10T01:00:00"), "200", "s5", device_id="car", skips=70),
    ]
    assert of("usage_features", drop(usage=rows)) == {
        "watch_hours_30d": 7830006 / 3600000,  # 1830000 + 6 + 5400000 + 600000 ms
        "avg_session_mins_7d": 7230006 / 180000,
        "unique_devices_30d": 2,
        "skips_7d": 5,
        "rebuffer_events_7d": 4,
        "active_days_30d": 3,
        "days_since_last_session": 0,
        "watch_hours_trend_30d": (7830006 - 12000000) / 3600000,
    }


def test_no_session_is_zero_or_unknown():
    assert of("usage_features", drop()) == {
        "watch_hours_30d": 0.0,
        "avg_session_mins_7d": None,
        "unique_devices_30d": 0,
        "skips_7d": 0,
        "rebuffer_events_7d": 0,
        "active_days_30d": 0,
        "days_since_last_session": None,
        "watch_hours_trend_30d": 0.0,
    }


def test_payments():
    rows = [
        payment(AS_OF - 90 * DAY, "0.10", "succeeded", "p1"),
        payment(AS_OF - MICROSECOND, "0.20", "succeeded", "p2"),
        payment(AS_OF, "99", "succeeded", "p3"),
        payment(AS_OF - 90 * DAY - MICROSECOND, "99", "succeeded", "p4"),
        payment(AS_OF - 100 * DAY, "5", "failed", "p5"),
        payment(AS_OF - 180 * DAY, "5", "failed", "p6"),
    ]
    assert of("payment_features", drop(payments=rows)) == {
        "failed_payments_90d": 0,
        "paid_amount_90d": 0.3,  # 30 cents; 0.1 + 0.2 in floats is not
        "days_since_last_failed_payment": 100,
    }
    too_old = [payment(AS_OF - 180 * DAY - MICROSECOND, "5", "failed")]
    found = of("payment_features", drop(payments=too_old))
    assert found["days_since_last_failed_payment"] is None


def test_a_ticket_is_resolved_only_before_as_of():
    opened = AS_OF - 2 * DAY
    rows = [
        ticket(opened, opened + timedelta(hours=1), "ticket/billing", "t1"),
        ticket(opened, AS_OF, "complaint/billing", "t2"),  # not yet resolved
        ticket(opened, None, "ticket/content", "t3"),
        ticket(AS_OF - 91 * DAY, AS_OF - MICROSECOND, "ticket/account", "t4"),
        ticket(AS_OF - 91 * DAY, AS_OF, "complaint/account", "t5"),
    ]
    assert of("support_features", drop(support=rows)) == {
        "support_tickets_90d": 3,
        "ticket_avg_resolution_hrs_90d": 1.0,
        "open_tickets": 3,  # t2, t3, t5
        "complaints_90d": 1,
        "last_categories": ["ticket/content", "complaint/billing", "ticket/billing"],
    }
    until_the_end = [ticket(opened, AS_OF - MICROSECOND)]
    assert of("support_features", drop(support=until_the_end)) == {
        "support_tickets_90d": 1,
        "ticket_avg_resolution_hrs_90d": (2 * 86400 * 10**6 - 1) / 3600000000,
        "open_tickets": 0,
        "complaints_90d": 0,
        "last_categories": ["ticket/billing"],
    }


def test_an_uncovered_window_takes_the_delivered_aggregate_of_exactly_this_as_of():
    january, february = date(2024, 2, 1), MARCH
    aggregate = {"user_id": "u", "failed_payments_90d": 4}
    first = Delivery(january, {"users": [user()], "payments_agg_90d": [aggregate]})
    second = Delivery(february, {"users": [user()], "payments": []})
    assert of("payment_features", first, second, as_of=midnight(january)) == {
        "failed_payments_90d": 4,
        "paid_amount_90d": None,
        "days_since_last_failed_payment": None,
    }
    # January's payments are missing, and 90 days before 1 March begin before 1 February.
    assert of("payment_features", first, second)["failed_payments_90d"] is None
    # The first drop covers everything before it, so its payments make both windows complete.
    both = (
        first,
        second,
        Delivery(january, {"payments": [payment(AS_OF - 60 * DAY, "1", "failed")]}),
    )
    assert of("payment_features", *both)["failed_payments_90d"] == 1
    assert of("payment_features", *both, as_of=midnight(january))["failed_payments_90d"] == 1


def test_each_column_is_covered_by_its_own_window():
    no_events = Delivery(date(2024, 2, 20), {"users": [user()]})
    found = of("usage_features", no_events, drop(usage=[session(AS_OF - DAY)]))
    assert found["skips_7d"] == 1  # 23 February to 1 March
    assert found["watch_hours_30d"] is None  # reaches behind 20 February
    exactly = Delivery(date(2024, 2, 23), {"users": [user()]})  # ends where the 7 days begin
    found = of("usage_features", exactly, drop(usage=[session(AS_OF - DAY)]))
    assert found["skips_7d"] == 1
    one_day_in = Delivery(date(2024, 2, 24), {"users": [user()]})
    found = of("usage_features", one_day_in, drop(usage=[session(AS_OF - DAY)]))
    assert found["skips_7d"] is None


def test_what_no_session_of_a_drop_records_is_unknown():
    bare = [session(AS_OF - DAY, skips=None, device_id=None)]
    found = of("usage_features", drop(usage=bare))
    assert found["skips_7d"] is None
    assert found["unique_devices_30d"] is None
    assert found["rebuffer_events_7d"] == 1
    assert found["active_days_30d"] == 1
    some = [*bare, session(AS_OF - 2 * DAY, session_id="t", skips=None)]
    assert of("usage_features", drop(usage=some))["unique_devices_30d"] == 1
    assert of("usage_features", drop(usage=[]))["skips_7d"] == 0
    lacking = Delivery(MARCH, drop(usage=[]).files, frozenset({("usage", "skips")}))
    assert of("usage_features", lacking)["skips_7d"] is None
    assert of("usage_features", lacking)["rebuffer_events_7d"] == 0


def test_the_newest_drop_that_still_states_an_event_speaks():
    early, late = date(2024, 2, 1), MARCH
    old = session(AS_OF - 3 * DAY - 30 * DAY, "60")
    new = session(AS_OF - 3 * DAY, "120")
    stated_old, stated_new = Delivery(early, {"usage": [old]}), drop(late, usage=[new])
    withdrawn = Delivery(late, {"usage": []})
    for order in ([stated_old, stated_new], [stated_new, stated_old]):
        assert Known(order).events["usage"] == {"s": new}
        assert Known([*order, withdrawn]).events["usage"] == {"s": old}


def test_signup_decides_who_is_in_the_spine_at_the_drops():
    rows = [user("day before", "2024-02-29"), user("same day", "2024-03-01")]
    assert set(spine(Known([drop(users=rows)]))) == {("day before", AS_OF)}


def test_a_calendar_takes_state_from_the_drop_before_and_newcomers_from_the_next():
    first = Delivery(
        date(2024, 1, 15),
        {
            "users": [
                user("stays"),
                user("leaves"),
                user("signs up on the drop's day", "2024-01-15"),
            ],
            "subscriptions": [{"user_id": "stays", "monthly_fee": 9.5}],
        },
    )
    second = Delivery(
        date(2024, 3, 15),
        {
            "users": [
                user("stays"),
                user("new in january", "2024-01-20"),
                user("new on the first", "2024-02-01"),
            ],
        },
    )
    known = Known([second, first])
    february, march = midnight(date(2024, 2, 1)), midnight(date(2024, 3, 1))
    here = {"stays", "leaves", "signs up on the drop's day", "new in january"}
    assert {user_id for user_id, as_of in spine(known, "month") if as_of == february} == here
    assert {user_id for user_id, as_of in spine(known, "month") if as_of == march} == {
        *here,
        "new on the first",
    }
    found = features([first, second], "month")
    assert found["user_features"]["new in january", february] == {
        "user_gender": None,
        "user_is_senior": None,
        "has_family": None,
        "has_dependents": None,
        "tenure_days": 12,
        "signup_date": date(2024, 1, 20),
    }
    assert found["subscription_features"]["stays", march]["monthly_fee"] == 9.5


def test_calendars():
    assert calendar(date(2024, 2, 28), date(2024, 3, 1), "day") == [
        date(2024, 2, 28),
        date(2024, 2, 29),
        MARCH,
    ]
    assert calendar(date(2024, 2, 20), date(2024, 3, 4), "week") == [
        date(2024, 2, 26),
        date(2024, 3, 4),
    ]
    assert calendar(date(2024, 1, 1), date(2024, 3, 1), "month") == [
        date(2024, 1, 1),
        date(2024, 2, 1),
        MARCH,
    ]
