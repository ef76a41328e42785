"""Generated event rows as numpy columns, and how they are written."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DAY = 86_400_000_000  # microseconds
MISSING = -1  # an unknown count or device
NEVER = np.iinfo(np.int64).max  # a ticket that is open
DRAWN = {  # the files of the sample and their columns, in the order in which they are made
    "users": "user_id signup_date user_gender user_is_senior has_family has_dependents",
    "subscriptions": "user_id months_active plan_stream_tv plan_stream_movies contract_type"
    " paperless_billing monthly_fee total_paid net_service",
    "labels": "user_id churn_label",
    "usage": "session_id user_id started_at device_id watch_minutes skips rebuffer_events",
    "payments": "payment_id user_id attempted_at amount status",
    "support": "ticket_id user_id opened_at resolved_at category",
    "usage_agg_30d": "user_id watch_hours_30d avg_session_mins_7d unique_devices_30d skips_7d"
    " rebuffer_events_7d",
    "payments_agg_90d": "user_id failed_payments_90d",
    "support_agg_90d": "user_id support_tickets_90d ticket_avg_resolution_hrs_90d",
}
LETTER = {"usage": "S", "payments": "P", "support": "T"}
CATEGORIES = [
    f"{kind}/{topic}"
    for kind in ("ticket", "complaint")
    for topic in ("billing", "playback", "account", "content")
]


@dataclass(frozen=True)
class Rows:
    """Events of one table; all arrays int64 and of the same length.

    `user` is a position in the chunk, `time` and resolved_at microseconds since 1970.
    """

    table: str
    id: np.ndarray
    user: np.ndarray
    time: np.ndarray
    values: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.id)

    def where(self, which: np.ndarray) -> Rows:
        """The rows that a mask or positions pick."""
        values = {name: column[which] for name, column in self.values.items()}
        return Rows(self.table, self.id[which], self.user[which], self.time[which], values)

    def hide(self, name: str, which: np.ndarray) -> Rows:
        """The same rows, a column of which is not known yet where `which` says so."""
        return replace(self, values=self.values | {name: np.where(which, NEVER, self.values[name])})

    def with_mistakes(self, which: np.ndarray) -> Rows:
        """The same rows as they are first told where wrong: to be corrected by a later drop.

        Viewing was counted twice, a payment that went through was taken for failed. Tickets
        need no mistakes: they change when they are resolved.
        """
        values = dict(self.values)
        if self.table == "usage":
            values["hundredths"] = np.where(which, 2 * values["hundredths"], values["hundredths"])
        elif self.table == "payments":
            values["failed"] = np.where(which, 1, values["failed"])
        return replace(self, values=values)

    def to_arrow(self, names: np.ndarray, chunk: int) -> pa.Table:
        """The rows in the columns of the contract; `names` are the users' names as bytes."""
        v = self.values
        letter = np.full((len(self), 1), ord(LETTER[self.table]), np.uint8)
        ids = texts(letter, digits(np.full(len(self), chunk), 4), digits(self.id, 9))
        columns = [ids, texts(names[self.user]), instants(self.time)]
        if self.table == "usage":
            device = texts(
                np.full((len(self), 1), ord("D"), np.uint8),
                digits(np.full(len(self), chunk), 4),
                digits(np.maximum(v["device"], 0), 7),
            )
            known = pa.array(v["device"] != MISSING)
            columns += [pc.if_else(known, device, None), pa.array(v["hundredths"] / 100)]
            columns += [counts(v["skips"]), counts(v["rebuffers"])]
        elif self.table == "payments":
            status = pa.array(["succeeded", "failed"]).take(pa.array(v["failed"]))
            columns += [pa.array(v["cents"] / 100), status]
        else:
            resolved = instants(v["resolved_at"], v["resolved_at"] == NEVER)
            columns += [resolved, pa.array(CATEGORIES).take(pa.array(v["category"]))]
        return pa.table(columns, names=[str(n) for n in range(len(columns))])


def concat(parts: list[Rows]) -> Rows:
    """Rows of one table, one after the other."""
    return Rows(
        parts[0].table,
        np.concatenate([part.id for part in parts]),
        np.concatenate([part.user for part in parts]),
        np.concatenate([part.time for part in parts]),
        {name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values},
    )


def digits(numbers: np.ndarray, width: int) -> np.ndarray:
    """Numbers with leading zeros, as a matrix of bytes (len(numbers), width)."""
    places = 10 ** np.arange(width - 1, -1, -1, dtype=np.int64)
    return (numbers[:, None] // places % 10 + ord("0")).astype(np.uint8)


def texts(*parts: np.ndarray) -> pa.StringArray:
    """One text a row from matrices of bytes side by side."""
    matrix = np.ascontiguousarray(np.concatenate(parts, axis=1))
    offsets = np.arange(len(matrix) + 1, dtype=np.int32) * np.int32(matrix.shape[1])
    return pa.StringArray.from_buffers(
        len(matrix), pa.py_buffer(offsets), pa.py_buffer(matrix.tobytes())
    )


def instants(microseconds: np.ndarray, missing: np.ndarray | None = None) -> pa.Array:
    """Instants in UTC."""
    return pa.array(microseconds, pa.int64(), mask=missing).view(pa.timestamp("us", "UTC"))


def counts(numbers: np.ndarray) -> pa.Array:
    """Whole numbers, some of them missing."""
    return pa.array(numbers, mask=numbers == MISSING)
