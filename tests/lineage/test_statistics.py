"""Which as_of's a feature's drift compares."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from orchestration.catalogue.statistics import a_month_before

LAST = datetime(2024, 3, 31, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("days_before", "compared"),
    [((31, 60), 31), (tuple(range(1, 60)), 28), ((1, 2, 3), 3), ((29, 27, 1), 29)],
)
def test_a_month_is_compared_with_the_one_before_whatever_the_cadence(
    days_before: tuple[int, ...], compared: int
) -> None:
    days = sorted([LAST, *(LAST - timedelta(days=n) for n in days_before)])
    assert a_month_before(days) == LAST - timedelta(days=compared)
