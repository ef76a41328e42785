"""The range of instants that features are asked for when there is no entity frame."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta, timezone

import numpy as np
import pandas as pd
from feast.feature_view import FeatureView


class DateRangeError(ValueError):
    """start_date or end_date cannot be used; the text names it, its value and the remedy."""


def date_range(
    start: object, end: object, feature_views: Iterable[FeatureView]
) -> tuple[datetime, datetime]:
    """Both ends, in UTC and part of the range. What is not given limits nothing.

    A date is its midnight, as in an entity frame, and what has no zone is UTC.

    Raises:
        DateRangeError: an end is no instant, or lies before the start.
    """
    # Stock Feast subtracts a ttl from the start.
    most = max((view.ttl for view in feature_views if view.ttl), default=timedelta(0))
    first = datetime.min.replace(tzinfo=timezone.utc) + most
    last = datetime.max.replace(tzinfo=timezone.utc)
    begin = first if start is None else _instant("start_date", start)
    until = last if end is None or _filled_in(end) else _instant("end_date", end)
    if until < begin:
        raise DateRangeError(
            f"end_date {until.isoformat()} lies before start_date {begin.isoformat()}: no row is "
            "in that range. Swap them"
        )
    return begin, until


def _filled_in(end: object) -> bool:
    """Whether nobody gave this end: Feast then passes the local time of the call, without a zone,
    which west of Greenwich lies hours before the newest rows."""
    if not isinstance(end, datetime) or end.tzinfo is not None:
        return False
    return timedelta(0) <= datetime.now() - end < timedelta(seconds=30)


def _instant(name: str, value: object) -> datetime:
    try:
        if not isinstance(value, str | date | np.datetime64):
            raise ValueError(f"it is a {type(value).__name__}")
        parsed = pd.to_datetime(value, utc=True, format="ISO8601" if type(value) is str else None)
        if parsed is pd.NaT:
            raise ValueError("it is no instant")
    except (ValueError, TypeError, OverflowError) as error:
        raise DateRangeError(
            f"{name} {value!r} cannot be used ({error}); give a datetime, a date or ISO 8601 text "
            "such as '2024-02-01' or '2024-02-01T12:00:00Z'"
        ) from error
    instant: datetime = parsed.floor("us").to_pydatetime()
    return instant
