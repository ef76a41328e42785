"""The comparison itself can fail: a microsecond, a last bit, a missing row, a count that is off.

If one of these fails, `make equal` says that two engines agree which do not.
"""

from __future__ import annotations

import struct
from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pytest

sides = pytest.importorskip("tests.spark.sides", reason="Spark is not installed: make spark")

AT = datetime(2024, 1, 31, tzinfo=timezone.utc)
UTC = pa.timestamp("us", "UTC")


def table(hours: float = 1.5, at: datetime = AT, users: tuple[str, ...] = ("u1", "u2")) -> pa.Table:
    return pa.table(
        {
            "user_id": pa.array(users),
            "seen": pa.array([at] * len(users), UTC),
            "hours": pa.array([hours] * len(users), pa.float64()),
            "tags": pa.array([["a", None]] * len(users), pa.list_(pa.string())),
        }
    )


def next_up(value: float) -> float:
    return struct.unpack(
        "<d", struct.pack("<q", struct.unpack("<q", struct.pack("<d", value))[0] + 1)
    )[0]


def test_equal_tables_are_equal_in_any_order_of_rows() -> None:
    left, right = table(), table(users=("u2", "u1"))
    found = sides.compare_tables(left, right, ["user_id"], "t")
    assert (found.cells, found.different) == (8, 0)


@pytest.mark.parametrize(
    "other",
    [
        table(at=AT + timedelta(microseconds=1)),
        table(hours=next_up(1.5)),
        table().set_column(3, "tags", pa.array([["a", "b"]] * 2, pa.list_(pa.string()))),
    ],
    ids=["a microsecond", "the last bit", "an element of a list"],
)
def test_the_smallest_difference_is_found_and_named(other: pa.Table) -> None:
    found = sides.compare_tables(table(), other, ["user_id"], "t")
    assert found.different == 2
    assert found.examples[0].startswith("t.")
    assert "u1" in found.examples[0]


def test_the_sign_of_zero_counts() -> None:
    assert sides.compare_tables(table(0.0), table(-0.0), ["user_id"], "t").different == 2


def test_a_row_that_one_side_lacks_differs_in_every_column() -> None:
    found = sides.compare_tables(table(), table(users=("u1",)), ["user_id"], "t")
    assert (found.cells, found.different) == (8, 4)
    assert "u2" in found.examples[0]
