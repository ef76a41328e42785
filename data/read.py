"""Read the files of a drop, block by block, so that no file is held in memory.

A file is read in one of two ways. `fast_rows` takes a plain file (no quotes) in large blocks and
either finds every row sound or gives up with `SuspectError`, without saying why. `slow_rows` then
goes line by line and names each error. The slow way defines what is valid; the fast way may only
ever accept less.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from data.check import Report, cell_problem, order_problems, show
from data.contract import MAX_CHARACTERS, USER, Column, Table

LONGEST_LINE = 1 << 20
BLOCK = 1 << 20


class SuspectError(Exception):
    """The fast reader met something that the slow one has to look at."""


@dataclass(frozen=True)
class Scan:
    """What a look at the bytes tells about a file."""

    sha256: str
    size: int
    plain: bool  # below the header no quotes, no carriage return but before a line feed
    ends_with_newline: bool


def scan(path: Path) -> Scan:
    """Read the file once, as bytes."""
    digest, size, plain, last = hashlib.sha256(), 0, True, b""
    with path.open("rb") as file:
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
    return Scan(digest.hexdigest(), size, plain and last != b"\r", last == b"\n")


def read_header(path: Path, table: Table, report: Report) -> list[Column]:
    """The columns in the file's order; notes what is wrong with the header (then do not go on)."""
    with path.open("rb") as file:
        # Before csv sees it: the one of Python 3.10 stops at the NULs of a file in UTF-16.
        first = next(physical_lines(file), "").rstrip("\r\n")
        if any("\udc80" <= character <= "\udcff" for character in first):
            report.add(1, "", f"the header is not UTF-8: {show(first)}")
            return []
        file.seek(0)
        try:
            names = next(csv.reader(physical_lines(file), strict=True), [])
        except csv.Error as error:
            report.add(1, "", _csv_problem(error))
            return []
    if path.stat().st_size == 0:
        report.add(0, "", "the file is empty; expected at least a header")
        return []
    known = {column.name: column for column in table.columns}
    meant: set[str] = set()  # missing columns that are there under a name like theirs
    for name in dict.fromkeys(names):
        if name not in known:
            text = f"unknown column {show(name)}; expected {', '.join(known)}"
            if like := _like(name, [column for column in known if column not in names]):
                text = f"unknown column {show(name)}; did you mean {like}?"
                meant.add(like)
            report.add(1, "", text)
        elif names.count(name) > 1:
            report.add(1, name, "the column is there twice")
    for column in table.columns:
        if column.name not in names and column.name not in meant and not column.optional:
            report.add(1, column.name, "the column is missing")
    return [known[name] for name in names if name in known]


def _like(name: str, missing: list[str]) -> str | None:
    """The missing column that a misspelled one stands for, as far as that is clear."""
    plain = re.sub(r"[\W_]+", "_", name.strip().lower()).strip("_")
    return next(iter(difflib.get_close_matches(plain, missing, n=1, cutoff=0.8)), None)


def physical_lines(file: BinaryIO) -> Iterator[str]:
    """Lines split at line feeds only, without byte order mark; bytes that are not UTF-8 survive.

    Such a byte comes as a lone surrogate. An overlong line is cut, which makes it an error.
    """
    start = b"\xef\xbb\xbf"
    while line := file.readline(LONGEST_LINE):
        rest = line
        while not rest.endswith(b"\n") and (rest := file.readline(LONGEST_LINE)):
            pass
        yield line.removeprefix(start).decode("utf-8", "surrogateescape")
        start = b"\x00not at the start"


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
        if cells.null_count and not column.nullable and not column.optional:
            raise SuspectError(column.name)
        good = pc.match_substring_regex(cells, f"^(?:{column.type.pattern})$")
        if not pc.all(good, min_count=0).as_py():
            raise SuspectError(column.name)
        if (pc.max(pc.utf8_length(cells)).as_py() or 0) > MAX_CHARACTERS:
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


def slow_rows(
    path: Path, header: list[Column], day: date, report: Report
) -> Iterator[list[str | None]]:
    """Rows as a line number and the cells in the order of `header`; wrong cells come as None.

    A row spanning several lines has the number of its first one. Lines that do not have the
    header's number of cells are only reported.
    """
    with path.open("rb") as file:
        reader = csv.reader(physical_lines(file), strict=True)
        next(reader, None)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                report.add(line, "", _csv_problem(error))
                report.keys_lost = True
                continue
            if cells is None:
                return
            if len(cells) != len(header):
                why = "the line is empty" if not cells else "is the line cut off?"
                if len(cells) > len(header):
                    why = "is a comma not quoted?"
                report.add(line, "", f"{len(cells)} cells, expected {len(header)}; {why}")
                report.keys_lost = True
                continue
            row: list[str | None] = [str(line)]
            for column, text in zip(header, cells, strict=True):
                wrong = cell_problem(column, text, day)
                if wrong:
                    report.add(line, column.name, wrong)
                    report.keys_lost |= column.type is USER
                row.append(None if wrong or not text else text)
            for problem in order_problems(header, row[1:], line):
                report.add(problem.line, problem.column, problem.text)
            yield row


def _csv_problem(error: csv.Error) -> str:
    """The parser's complaint in words that do not change with Python's version."""
    problems = {
        "unexpected end": "a quote is opened and never closed",
        "expected after": "text follows a closing quote; expected a comma or the line's end",
        "new-line": "a carriage return stands alone; expected lines to end in a line feed",
        "field limit": "a cell has more than 131072 characters",
        "NUL": "a NUL character",
    }
    return next((text for part, text in problems.items() if part in str(error)), str(error))
