"""A point-in-time join of a large frame: the view is read once, and sorted, beside the frame.

An index descent a (entity row, view) is the best that a small frame can have. From some size on,
reading every version once costs less than looking up nearly all of them several times over
(docs/decisions/0033-large-frames.md has the figures). Both give the same answer; `pays` chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamflow_feast.offline.point_in_time import Bounds, View

BYTES_A_LOOK_UP = 400
"""So much of a table is read, sent and sorted in the time that one look-up takes."""


MOST_KEYS = 2  # of more, the numbers of their combinations may not fit into 64 bits
_MICROSECOND = timedelta(microseconds=1)
_Numbers = np.ndarray[Any, np.dtype[np.int64]]


def pays(view: View, bounds: Bounds, frame_rows: int, table_bytes: int) -> bool:
    """Whether reading the whole table costs less than looking up every row of the frame.

    Never where what counts differs by row, as with Feast's `filter_by_created_timestamp`.
    """
    if bounds.created_by_instant or len(view.keys) > MOST_KEYS:
        return False
    return table_bytes < frame_rows * BYTES_A_LOOK_UP


class Frame:
    """The entity frame as numbers: one for the keys of a row, one for its instant."""

    def __init__(self, keys: Sequence[pa.ChunkedArray], instants: pa.ChunkedArray) -> None:
        """From the key columns and the instants, in UTC microseconds; none of them null."""
        encoded = [_encoded(key) for key in keys]
        self._values = [values for values, _ in encoded]
        self._different, self.numbers = np.unique(
            self._mixed([places for _, places in encoded]), return_inverse=True
        )
        self.instants = _microseconds(instants)

    def numbers_of(self, keys: Sequence[pa.ChunkedArray]) -> tuple[_Numbers, _Numbers]:
        """(the rows of these keys that the frame asks for, the number of each)."""
        places = [
            pc.index_in(key.cast(values.type), values).fill_null(-1).to_numpy()
            for key, values in zip(keys, self._values, strict=True)
        ]
        rows = np.flatnonzero(np.logical_and.reduce([place >= 0 for place in places]))
        mixed = self._mixed([place[rows] for place in places])
        if len(places) == 1:
            return rows, mixed
        numbers = np.searchsorted(self._different, mixed).clip(max=len(self._different) - 1)
        asked = self._different[numbers] == mixed
        return rows[asked], numbers[asked]

    def _mixed(self, places: Sequence[_Numbers]) -> _Numbers:
        """Places in the values of each key as one number."""
        first, *others = places
        mixed = first.astype(np.int64)
        for place, values in zip(others, self._values[1:], strict=True):
            mixed = mixed * len(values) + place
        return mixed


def newest(view: View, frame: Frame, versions: pa.Table) -> pa.Array:
    """For every row of the frame the row of `versions` that answers it, null where none does.

    versions: (a column for each key of the view, timestamp, created, is_retracted, ...), in any
    order, without what the reader does not know.
    """
    *keys, timestamps, created, retracted = versions.columns[: len(view.keys) + 3]
    rows, numbers = frame.numbers_of(keys)
    times, ranks = np.unique(_microseconds(timestamps)[rows], return_inverse=True)
    # One number that orders by key and, within it, by timestamp; below all of the next key.
    width = len(times) + 1
    places = numbers * width + ranks
    order = np.lexsort((_microseconds(created)[rows], places))
    rows, places = rows[order], places[order]
    newest_version = np.append(places[1:] != places[:-1], True)[: len(places)]
    counts = newest_version & ~retracted.to_numpy()[rows]
    # The first of them stands for "none": it is below every key.
    rows, places = np.append(0, rows[counts]), np.append(-1, places[counts])

    first = frame.numbers * width
    asked = first + np.searchsorted(times, frame.instants, side="right") - 1
    found = np.searchsorted(places, asked, side="right") - 1
    none = places[found] < first
    if view.ttl and len(times):
        oldest = frame.instants - view.ttl // _MICROSECOND
        none |= times[(places[found] - first).clip(min=0)] < oldest
    return pa.array(rows[found], mask=none)


def _encoded(column: pa.ChunkedArray) -> tuple[pa.Array, _Numbers]:
    """A column's different values, and the place of each row's among them."""
    encoded = column.dictionary_encode().unify_dictionaries()
    if not encoded.num_chunks:
        return pa.array([], column.type), np.empty(0, np.int64)
    places = [chunk.indices.to_numpy() for chunk in encoded.chunks]
    return encoded.chunk(0).dictionary, np.concatenate(places)


def _microseconds(instants: pa.ChunkedArray) -> _Numbers:
    return instants.cast(pa.int64()).to_numpy()
