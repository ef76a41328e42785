"""Read the files of a drop, block by block, so that no file is held in memory.

A file is read in one of two ways. `fast_rows` takes a plain file (no quotes) in large blocks and
either finds every row sound or gives up with `SuspectError`, without saying why. `slow_rows` then
goes line by line and names each error. The slow way defines what is valid; the fast way may only
ever accept less.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from data.contract import MAX_CHARACTERS, NO_ID, Column
from data.load.check import Report, cell_problem, order_problems, show
from data.load.hints import hint
from data.load.layout import (
    LONGEST_LINE,
    TEMPLATE,
    Layout,
    Place,
    csv_problem,
    csv_rows,
    open_bytes,
    plain,
)
from data.load.mapping import ConvertError

BLOCK = 1 << 20
ROWS_OF_PARQUET = 10_000


class SuspectError(Exception):
    """The fast reader met something that the slow one has to look at."""


@dataclass(frozen=True)
class Scan:
    """What a look at the bytes tells about a file."""

    sha256: str
    size: int
    plain: bool  # below the header no quotes, no carriage return but before a line feed
    ends_with_newline: bool


def scan(path: Path, report: Report) -> Scan:
    """Read the file once, as bytes; notes a .gz that is none or was cut off."""
    try:
        return _scan(path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        report.add(0, "", f"is no whole gzip file: {error}")
        return Scan("", 0, False, True)


def _scan(path: Path) -> Scan:
    digest, size, plain, last = hashlib.sha256(), 0, True, b""
    with open_bytes(path) as file:
        header = file.readline(LONGEST_LINE)
        digest.update(header)
        size, last = len(header), header[-1:]
        while block := file.read(BLOCK):
            digest.update(block)
            size += len(block)
            plain = plain and b'"' not in block
            if plain and (b"\r" in block or last == b"\r"):
                joined = last + block
                plain = joined.count(b"\r") - joined.endswith(b"\r") == joined.count(b"\r\n")
            last = block[-1:]
    ends = last == b"\n" or path.suffix == ".parquet"
    return Scan(digest.hexdigest(), size, plain and last != b"\r", ends)


def fast_rows(path: Path, header: list[Column], day: date) -> Iterator[bytes]:
    """All rows as CSV for COPY: a line number, then the columns of `header`; in large blocks.

    Raises:
        SuspectError: something may be wrong; rows that came before are to be discarded.
    """
    names = [column.name for column in header]
    line = 2
    try:
        reader = pacsv.open_csv(
            path,
            # Threads read ahead without limit: memory would grow with the file.
            pacsv.ReadOptions(column_names=names, skip_rows=1, block_size=BLOCK, use_threads=False),
            pacsv.ParseOptions(ignore_empty_lines=False, quote_char=False),
            pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                null_values=[""],
            ),
        )
        for batch in reader:
            _require_sound(batch, header, day)
            numbers = pa.array(np.arange(line, line + batch.num_rows))
            line += batch.num_rows
            out = pa.BufferOutputStream()
            numbered = pa.record_batch([numbers, *batch.columns], ["line", *names])
            pacsv.write_csv(numbered, out, pacsv.WriteOptions(include_header=False))
            yield out.getvalue().to_pybytes()
    except pa.ArrowInvalid as error:
        raise SuspectError(str(error)) from error


def _require_sound(batch: pa.RecordBatch, header: list[Column], day: date) -> None:
    """Raise `SuspectError` unless every cell of the batch is what its column expects."""
    instants: dict[str, pa.Array] = {}
    end = datetime(day.year, day.month, day.day, tzinfo=timezone.utc) + timedelta(days=1)
    for column, cells in zip(header, batch.columns, strict=True):
        if column.type.to_sql:
            raise SuspectError(column.name)
        if cells.null_count and not column.nullable and not column.optional:
            raise SuspectError(column.name)
        good = pc.match_substring_regex(cells, f"^(?:{column.type.pattern})$")
        if not pc.all(good, min_count=0).as_py():
            raise SuspectError(column.name)
        if (pc.max(pc.utf8_length(cells)).as_py() or 0) > column.type.longest:
            raise SuspectError(column.name)
        if column.is_id:
            none = pc.is_in(pc.utf8_lower(cells), value_set=pa.array(NO_ID))
            if pc.any(none, min_count=0).as_py():
                raise SuspectError(column.name)
        if column.type.name == "date":
            latest = pc.max(cells.cast(pa.date32())).as_py()
            if latest and latest > day:
                raise SuspectError(column.name)
        elif column.type.name == "instant":
            has_offset = pc.match_substring_regex(cells, r"(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)$")
            # A date ends in -dd as an offset may; no instant is that short.
            zoned = pc.if_else(has_offset, cells, pc.binary_join_element_wise(cells, "Z", ""))
            values = zoned.cast(pa.timestamp("us", "UTC"))
            latest = pc.max(values).as_py()
            if latest and latest >= end:
                raise SuspectError(column.name)
            instants[column.name] = values
    for column in header:
        if column.not_before and column.not_before in instants:
            early = pc.less(instants[column.name], instants[column.not_before])
            if pc.any(early, min_count=0).as_py():
                raise SuspectError(column.name)


def slow_rows(path: Path, layout: Layout, day: date, report: Report) -> Iterator[list[str | None]]:
    """Rows as a line number and the cells of `layout.columns`; wrong cells come as None.

    A row spanning several lines has the number of its first one; a row of a Parquet file its place
    plus one, as if it had a header. Lines that do not have the header's number of cells are only
    reported.
    """
    rows = (
        _parquet_rows(path, layout)
        if path.suffix == ".parquet"
        else _csv_rows(path, layout, report)
    )
    takers = [(place, _taker(place, day)) for place in layout.places]
    is_ordered = any(column.not_before for column in layout.columns)
    for line, cells in rows:
        if not layout.is_wanted(cells):
            report.left_out += 1
            continue
        row: list[str | None] = [str(line)]
        for place, take in takers:
            text = cells[place.index] if place.index >= 0 else _made(place, cells, layout, line)
            written, wrong = take(text)
            if wrong:
                report.add(line, place.label, wrong)
                if told := hint(place.column, text.strip()):
                    report.hints.add(told)
                report.keys_lost |= place.column.name in layout.key
            row.append(written)
        if is_ordered:
            for problem in order_problems(layout.columns, row[1:], line):
                report.add(problem.line, problem.column, problem.text)
        yield row


def _taker(place: Place, day: date) -> Callable[[str], tuple[str | None, str | None]]:
    """From a cell of the file to what COPY takes (None: no value), and what is wrong with it.

    Dates, devices and counts come again and again, so that the newest ones are kept; no long ones,
    of which ten thousand would be a file.
    """

    def take(cell: str) -> tuple[str | None, str | None]:
        try:
            text = place.convert(cell) if place.convert else cell
        except ConvertError as error:
            return None, f"{show(cell)}; expected {error}"
        wrong = cell_problem(place.column, text, day)
        if wrong:
            return None, wrong + (f", from {show(cell)}" if text != cell and cell else "")
        to_sql = place.column.type.to_sql
        return (to_sql(text) if to_sql else text) if text else None, None

    kept = lru_cache(maxsize=10_000)(take)
    return lambda cell: kept(cell) if len(cell) <= MAX_CHARACTERS else take(cell)


def _made(place: Place, cells: list[str], layout: Layout, line: int) -> str:
    """The text that a mapping's `make` says."""
    values = {plain(name): cell for name, cell in zip(layout.names, cells, strict=True)}
    values["line"] = str(line)
    return TEMPLATE.sub(lambda part: values[plain(part[1])], place.template)


def _csv_rows(path: Path, layout: Layout, report: Report) -> Iterator[tuple[int, list[str]]]:
    with open_bytes(path) as file:
        reader = csv_rows(file, layout.form)
        if layout.has_header:
            next(reader, None)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                report.add(line, "", csv_problem(error))
                report.keys_lost = True
                continue
            if cells is None:
                return
            if len(cells) != len(layout.names):
                why = "the line is empty" if not cells else "is the line cut off?"
                if len(cells) > len(layout.names):
                    why = "is a separator not quoted?"
                    if layout.form.separator == ",":
                        why = "is a comma not quoted?"
                report.add(line, "", f"{len(cells)} cells, expected {len(layout.names)}; {why}")
                report.keys_lost = True
                continue
            yield line, cells


def _parquet_rows(path: Path, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    line = 2
    dates = {place.index for place in layout.places if place.column.type.name == "date"}
    for batch in pq.ParquetFile(path).iter_batches(batch_size=ROWS_OF_PARQUET):
        columns = [
            [_written(value, number in dates) for value in column.to_pylist()]
            for number, column in enumerate(batch.columns)
        ]
        for cells in zip(*columns, strict=True):
            yield line, list(cells)
            line += 1


def _written(value: Any, is_date: bool) -> str:
    """A value of a Parquet file as a CSV in the contract's form has it."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, datetime):
        zoned = value.tzinfo is not None
        if zoned:
            value = value.astimezone(timezone.utc).replace(tzinfo=None)
        text = value.isoformat()  # pandas has no dates, and keeps them as midnights
        return text.removesuffix("T00:00:00") if is_date else f"{text}{'Z' * zoned}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=lambda part: _written(part, False))
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
