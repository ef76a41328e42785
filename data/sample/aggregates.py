"""The delivered aggregates of one drop, from the generated rows that were stated by then.

The definitions are those of the features with the same names; windows are [as_of - n, as_of).
"""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa

from data.sample.rows import DAY, MISSING, NEVER, Rows, concat, texts


def delivered_aggregates(
    stated: list[Rows], names: np.ndarray, listed: np.ndarray, day: date
) -> dict[str, pa.Table]:
    """Table name -> one row for each listed user of the chunk; `stated` is in order of delivery."""
    as_of = DAY * (day - date(1970, 1, 1)).days
    people = len(names)
    user_id = texts(names[listed])

    def window(table: str, days: int) -> Rows | None:
        parts = [rows for rows in stated if rows.table == table]
        if not parts:
            return None
        rows = concat(parts)
        # The last statement about an id is the one in effect.
        _, newest = np.unique(rows.id[::-1], return_index=True)
        rows = rows.where(len(rows) - 1 - newest)
        return rows.where((rows.time >= as_of - days * DAY) & (rows.time < as_of))

    def total(rows: Rows | None, values: np.ndarray | None = None) -> np.ndarray:
        """Per listed user the sum of `values`, or the number of rows."""
        sums = np.zeros(people, np.int64)
        if rows is not None:
            np.add.at(sums, rows.user, 1 if values is None else values)
        return sums[listed]

    def ratio(sums: np.ndarray, by: np.ndarray) -> pa.Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return pa.array(sums.astype(float) / by.astype(float), mask=by == 0)

    month, week = window("usage", 30), window("usage", 7)
    milliseconds = [total(r, r.values["hundredths"] * 600 if r else None) for r in (month, week)]
    devices = np.zeros(listed.sum(), np.int64)
    if month is not None:
        known = month.where(month.values["device"] != MISSING)
        _, once = np.unique(known.values["device"], return_index=True)
        devices = total(known.where(once))  # a device belongs to one user
    skips, rebuffers = (
        total(week, np.maximum(week.values[name], 0) if week else None)
        for name in ("skips", "rebuffers")
    )
    payments, tickets = window("payments", 90), window("support", 90)
    solved = None
    if tickets is not None:
        solved = tickets.where(tickets.values["resolved_at"] != NEVER)
    hours = total(solved, solved.values["resolved_at"] - solved.time if solved else None)
    return {
        "usage_agg_30d": _table(
            user_id,
            pa.array(milliseconds[0] / 3_600_000),
            ratio(milliseconds[1], 60_000 * total(week)),
            devices,
            skips,
            rebuffers,
        ),
        "payments_agg_90d": _table(
            user_id, total(payments, payments.values["failed"] if payments else None)
        ),
        "support_agg_90d": _table(
            user_id, total(tickets), ratio(hours, 3_600_000_000 * total(solved))
        ),
    }


def _table(*columns: pa.Array | np.ndarray) -> pa.Table:
    return pa.table(list(columns), names=[str(number) for number in range(len(columns))])
