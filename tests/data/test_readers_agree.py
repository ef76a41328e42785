"""The fast reader of a drop accepts nothing that the slow one refuses."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.contract import declared
from data.load.check import Report
from data.load.layout import read_layout
from data.load.read import SuspectError, fast_rows, scan, slow_rows
from tests.data.drops import HEADERS

CELLS = st.one_of(
    st.sampled_from(["", "a", "1", "01.50", "1e5", "-1", "2024-02-29T12:00:00+01:00", "NaN", " "]),
    st.sampled_from(["2024-03-31T23:59:59.999999Z", "2024-04-01 00:59+01", "2023-02-29T00:00Z"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=4),
)
GOOD = ("s", "u", "2024-03-01 10:00", "", "1", "", "")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), CELLS), max_size=3), st.booleans())
def test_the_fast_reader_accepts_nothing_that_the_slow_one_refuses(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, str]], crlf: bool
) -> None:
    """Otherwise a wrong value is loaded, or COPY fails with a message of Postgres."""
    lines = [HEADERS["usage"], ",".join(GOOD)]
    for place, cell in changes:
        lines.append(",".join([*GOOD[:place], cell, *GOOD[place + 1 :]]))
    path = tmp_path_factory.mktemp("fast") / "usage.csv"
    path.write_bytes("".join(line + ("\r\n" if crlf else "\n") for line in lines).encode())
    day, report = date(2024, 3, 31), Report("usage.csv")
    (table,) = (table for table in declared() if table.name == "usage")
    layout = read_layout(path, table, None, report)
    assert layout is not None
    header = layout.columns
    slow = list(slow_rows(path, layout, day, report))
    try:
        fast = b"".join(fast_rows(path, header, day)).decode() if scan(path, report).plain else None
    except SuspectError:
        fast = None
    if fast is not None:
        assert report.count == 0
        rows = [[cell.strip('"') or None for cell in line.split(",")] for line in fast.splitlines()]
        assert rows == slow
    elif scan(path, report).plain:
        assert report.count, "the fast reader is too strict: every such file would be slow"
