"""What a file's header says: which of its columns hold which of the table's."""

from __future__ import annotations

import codecs
import csv
import difflib
import gzip
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from data.contract import Column, Table
from data.load.check import Report, show
from data.load.mapping import NAME, Convert, Form

LONGEST_LINE = 1 << 20
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}
TEMPLATE = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class Place:
    """Where the values of a column come from: a column of the file, or a template of several."""

    column: Column
    index: int  # in the file; -1: made by `template`
    label: str  # the column in errors
    convert: Convert | None = None
    template: str = ""


@dataclass(frozen=True)
class Layout:
    """How a file's columns become the table's."""

    names: list[str]  # the file's own
    places: list[Place]
    ignored: list[str]
    key: tuple[str, ...]  # the table's
    form: Form
    only: list[tuple[int, tuple[str, ...]]]  # (number of a column, its words in rows to load)

    @property
    def has_header(self) -> bool:
        """Whether the file's first line names its columns."""
        return not self.form.header

    def is_wanted(self, cells: list[str]) -> bool:
        """Whether a row is one of those that the mapping's `only` leaves."""
        return all(cells[number].strip() in words for number, words in self.only)

    @property
    def columns(self) -> list[Column]:
        """The table's columns that the file has, in its order."""
        return [place.column for place in self.places]

    @property
    def is_plain(self) -> bool:
        """Whether the file is written as the contract says, column by column."""
        return (
            self.form.separator == ","
            and self.form.quotes == "csv"
            and not self.form.encoding
            and not self.form.only
            and self.has_header
            and all(
                place.index == number and place.convert is None
                for number, place in enumerate(self.places)
            )
            and len(self.places) == len(self.names)
        )


def read_layout(path: Path, table: Table, form: Form | None, report: Report) -> Layout | None:
    """What the header says; None, with the reasons in the report, when it can't be used."""
    written = form or Form()
    at = 0 if written.header else 1  # the line of the names; 0: they are not in the file
    names = _names(path, written, report)
    if names is None:
        return None
    places: list[Place] = []
    unknown: list[str] = []
    wanted = {written.columns.get(column.name, column.name): column for column in table.columns}
    by_plain = {(plain(name) if form else name): column for name, column in wanted.items()}
    for number, name in enumerate(names):
        column = by_plain.get(plain(name) if form else name)
        if name in names[:number]:
            if names[:number].count(name) == 1:
                report.add(at, name, "the column is there twice")
        elif column is None or column.name in written.make:
            unknown.append(name)
        else:
            label = column.name if name == column.name else f"{column.name} ({show(name)})"
            convert = form.converter(column) if form else None
            places.append(Place(column, number, label, convert))
    for name, template in written.make.items():
        column = table.column(name)
        for part in TEMPLATE.findall(template):
            if part != "line" and plain(part) not in map(plain, names):
                report.add(at, name, f"is made from {show(part)}, which is no column of the file")
        places.append(Place(column, -1, name, written.converter(column), template))
    only = []
    numbers = {plain(name): number for number, name in enumerate(names)}
    for name, words in written.only.items():
        if plain(name) in numbers:
            only.append((numbers[plain(name)], words))
        else:
            report.add(at, name, "`only` goes by it, and it is no column of the file")
    used = {plain(part) for place in places for part in TEMPLATE.findall(place.template)}
    used |= set(map(plain, written.only))
    unknown = [name for name in unknown if plain(name) not in used]
    there = {place.column.name for place in places}
    meant: set[str] = set()  # missing columns that are there under a name like theirs
    if written.unknown_columns != "ignore":
        absent = [column.name for column in table.columns if column.name not in there]
        for name in unknown:
            text = f"unknown column {show(name)}; expected {', '.join(wanted)}"
            if like := _like(name, absent):
                text = f"unknown column {show(name)}; did you mean {like}?"
                meant.add(like)
            report.add(at, "", text)
    for column in table.columns:
        if column.name not in there | meant and not column.may_be_absent:
            name = written.columns.get(column.name, column.name)
            also = f" ({show(name)})" if name != column.name else ""
            report.add(at, column.name, f"the column is missing{also}")
    if report.count:
        return None
    return Layout(names, places, unknown, table.key, written, only)


def plain(name: str) -> str:
    """A column's name without what people write differently."""
    return name.strip().casefold()


def _like(name: str, missing: list[str]) -> str | None:
    """The missing column that a misspelled one stands for, as far as that is clear."""
    written = re.sub(r"[\W_]+", "_", plain(name)).strip("_")
    return next(iter(difflib.get_close_matches(written, missing, n=1, cutoff=0.8)), None)


def _names(path: Path, form: Form, report: Report) -> list[str] | None:
    """The names of a file's columns; notes why there are none."""
    separator, encoding = form.separator, form.encoding
    if path.suffix == ".parquet":
        try:
            return list(pq.read_schema(path).names)
        except (pa.ArrowInvalid, OSError) as error:
            report.add(0, "", f"is no Parquet file: {str(error).splitlines()[0]}")
            return None
    if path.stat().st_size == 0:
        report.add(0, "", "the file is empty; expected at least a header")
        return None
    with open_bytes(path) as file:
        start = file.read(4)
        is_utf_16 = start[:2] in (b"\xff\xfe", b"\xfe\xff") or start[1::2] == b"\0\0"
        if is_utf_16 and not encoding:
            report.add(
                1,
                "",
                "the header is not UTF-8, but UTF-16; save the file as UTF-8, or say "
                f"encoding: utf-16 in {NAME} beside it",
            )
            return None
        if form.header:
            return list(form.header)
        file.seek(0)
        # Before csv sees it: the one of Python 3.10 stops at the NULs of a file in UTF-16.
        first = next(physical_lines(file, encoding), "").rstrip("\r\n")
        if any("\udc80" <= character <= "\udcff" for character in first):
            report.add(1, "", f"the header is not UTF-8: {show(first)}")
            return None
        file.seek(0)
        try:
            lines = csv_rows(file, form)
            names: list[str] = next(lines, [])
        except csv.Error as error:
            report.add(1, "", csv_problem(error))
            return None
    for other, meaning in SEPARATORS.items():
        if len(names) == 1 and other != separator and other in first:
            said = "\\t" if other == "\t" else other
            report.add(
                1,
                "",
                f"{show(first)} looks separated by {meaning}; expected {show(separator)}. "
                f'Write the file so, or say separator: "{said}" in {NAME} beside it',
            )
            return None
    return names


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked where it is a .gz."""
    if path.suffix != ".gz":
        with path.open("rb") as file:
            yield file
        return
    with gzip.open(path) as unpacked:
        yield cast(BinaryIO, unpacked)


# What is not of an encoding survives as lone surrogates, which no cell may hold.
codecs.register_error(
    "not of it",
    lambda error: ("\udc80" * (error.end - error.start), error.end),  # type: ignore
)


def physical_lines(file: BinaryIO, encoding: str = "") -> Iterator[str]:
    """Lines split at line feeds only, without byte order mark; bytes that are not UTF-8 survive.

    Such a byte comes as a lone surrogate. An overlong line is cut, which makes it an error.
    """
    if encoding:
        text = io.TextIOWrapper(file, encoding, errors="not of it", newline="\n")
        try:
            while whole := text.readline(LONGEST_LINE):
                more = whole
                while not more.endswith("\n") and (more := text.readline(LONGEST_LINE)):
                    pass
                yield whole
        finally:
            if not file.closed:
                text.detach()  # it would close the file
        return
    start = b"\xef\xbb\xbf"
    while line := file.readline(LONGEST_LINE):
        rest = line
        while not rest.endswith(b"\n") and (rest := file.readline(LONGEST_LINE)):
            pass
        yield line.removeprefix(start).decode("utf-8", "surrogateescape")
        start = b"\x00not at the start"


def csv_rows(file: BinaryIO, form: Form) -> Any:
    """The file's rows, as csv reads them: it knows the line."""
    lines = physical_lines(file, form.encoding)
    if form.quotes == "none":
        return csv.reader(lines, strict=True, delimiter=form.separator, quoting=csv.QUOTE_NONE)
    return csv.reader(lines, strict=True, delimiter=form.separator)


def csv_problem(error: csv.Error) -> str:
    """The parser's complaint in words that do not change with Python's version."""
    problems = {
        "unexpected end": "a quote is opened and never closed",
        "expected after": "text follows a closing quote; expected a comma or the line's end",
        "new-line": "a carriage return stands alone; expected lines to end in a line feed",
        "field limit": "a cell has more than 131072 characters",
        "NUL": "a NUL character",
    }
    return next((text for part, text in problems.items() if part in str(error)), str(error))
