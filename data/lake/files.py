"""Raw rows on the lake: Parquet files that are written once and never changed.

    <lake>/raw/<table>_rows/as_of=2024-01-31/load-5.parquet   rows that load 5 brought
    <lake>/raw/<table>_superseded/load-5.parquet              rows out of effect since load 5
    <lake>/raw/<table>_replaced/load-5.parquet                rows that their own drop states anew
    <lake>/raw/loads/load-5.parquet                           written last: the load has happened

A reader takes the files of loads that are in `loads`. What a killed load left has the number of the
next one, which takes it away before it begins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.contract import Table
from data.load.check import DropError, Report
from data.paths import lake

INSTANT = pa.timestamp("us", "UTC")
PLAIN = {
    "text": pa.string(),
    "bigint": pa.int64(),
    "boolean": pa.bool_(),
    "double precision": pa.float64(),
    "date": pa.date32(),
    "timestamp with time zone": INSTANT,
    "uuid": pa.string(),
}
MOST_DIGITS = 38  # of a decimal, on Spark and in Parquet
LOADS = pa.schema(
    [
        ("load_id", pa.int64()),
        ("table_name", pa.string()),
        ("as_of", INSTANT),
        ("loaded_at", INSTANT),
        ("rows_read", pa.int64()),
        ("rows_added", pa.int64()),
        ("rows_retracted", pa.int64()),
        ("sha256", pa.string()),
        ("recorded", pa.list_(pa.string())),
    ]
)
NUMBERED = re.compile(r"load-(\d+)\.parquet")


def arrow_type(named: str) -> pa.DataType | None:
    """The Arrow type of a column that the contract calls so; None: the lake has none for it."""
    if found := re.fullmatch(r"numeric\((\d+),(\d+)\)", named):
        precision, scale = int(found[1]), int(found[2])
        return pa.decimal128(precision, scale) if precision <= MOST_DIGITS else None
    return PLAIN.get(named)


def columns_of(table: Table) -> list[tuple[str, pa.DataType]]:
    """The table's columns.

    Raises:
        DropError: one of them has a type that the lake does not keep.
    """
    columns = []
    for column in table.columns:
        kind = arrow_type(column.type.sql)
        if kind is None:
            report = Report(table.file)
            report.add(
                0,
                column.name,
                f"is declared as {column.type.sql}, which the lake does not keep; expected one of "
                f"{', '.join(PLAIN)} or numeric(p,s) of at most {MOST_DIGITS} digits",
            )
            raise DropError(lake(), [report])
        columns.append((column.name, kind))
    return columns


def key_of(table: Table) -> list[tuple[str, pa.DataType]]:
    """The columns that name a row of one load."""
    of = dict(columns_of(table))
    return [(name, of[name]) for name in table.key]


def rows_schema(table: Table) -> pa.Schema:
    """Of `<table>_rows` without as_of, which is in the folder's name."""
    return pa.schema([*columns_of(table), ("load_id", pa.int64()), ("loaded_at", INSTANT)])


def mark_schema(table: Table, mark: str) -> pa.Schema:
    """Of `<table>_superseded` and `<table>_replaced`."""
    return pa.schema(
        [*key_of(table), ("as_of", INSTANT), ("load_id", pa.int64()), (f"{mark}_by", pa.int64())]
    )


@dataclass(frozen=True)
class Lake:
    """The raw part of a lake: its folder, and the number of the newest load."""

    folder: Path
    last: int

    @classmethod
    def here(cls) -> Lake:
        """The lake of the settings as it is now."""
        folder = lake() / "raw"
        return cls(folder, max(_numbers(folder / "loads"), default=0))

    def files(self, name: str) -> list[str]:
        """The committed files of a part, such as usage_rows."""
        return sorted(
            str(path)
            for path in (self.folder / name).rglob("load-*.parquet")
            if _number(path) <= self.last
        )

    def remove_leavings(self) -> None:
        """What a killed load left: no reader takes it."""
        for path in self.folder.rglob("load-*.parquet*"):
            if _number(path) > self.last:
                path.unlink()


def _number(path: Path) -> int:
    found = NUMBERED.match(path.name)
    return int(found[1]) if found else 0


def _numbers(folder: Path) -> Iterator[int]:
    return (_number(path) for path in folder.glob("load-*.parquet"))


def write(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write a file that appears whole or not at all, and none without a row; the rows."""
    rows, writer = 0, None
    temporary = path.with_name(f"{path.name}.tmp")
    for batch in batches:
        if not batch.num_rows:
            continue
        if writer is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = pq.ParquetWriter(temporary, schema, compression="zstd")
        arrays = [
            column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)
        ]
        writer.write_batch(pa.record_batch(arrays, schema=schema))
        rows += batch.num_rows
    if writer is not None:
        writer.close()
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    return rows


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One load at a time, on one machine; ends with the process, however that ends."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
