"""What is wrong with a drop: file, line, column, value, and what was expected instead."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path

from data.contract import NO_ID, Column

SHOWN = 20
"""How many errors of one file are written out; the others are counted."""


@dataclass(frozen=True, order=True)
class Problem:
    """One error; `line` counts the file's physical lines from 1, 0 means the file itself."""

    line: int
    column: str
    text: str

    def __str__(self) -> str:
        place = [f"line {self.line}"] if self.line else []
        place += [self.column] if self.column else []
        return f"{', '.join(place)}: {self.text}" if place else self.text


@dataclass
class Report:
    """The errors of one file: the first ones, and how many there are."""

    file: str
    problems: list[Problem] = field(default_factory=list)
    count: int = 0
    refused: dict[int, list[str]] | None = None  # where rows may be refused: line -> its errors
    hints: set[str] = field(default_factory=set)  # what a mapping.yml could say
    left_out: int = 0  # rows that the mapping's `only` leaves out
    first_row: int = 2  # the line of it, below the header
    keys_lost: bool = False  # an error took the key of some row: who is listed is not known

    def add(self, line: int, column: str, text: str) -> None:
        """Note one error; kept when it is among the first `SHOWN`."""
        self.extend([Problem(line, column, text)], 1)

    def extend(self, problems: list[Problem], count: int) -> None:
        """Note `count` errors, of which `problems` are the first ones."""
        self.count += count
        if self.refused is not None:
            for problem in problems:
                at = f"{problem.column}: {problem.text}" if problem.column else problem.text
                self.refused.setdefault(problem.line, []).append(at)
        self.problems = sorted([*self.problems, *problems])[:SHOWN]

    def forget(self, lines: Set[int]) -> None:
        """Take back what was noted of these lines, as far as it was kept."""
        told = [problem for problem in self.problems if problem.line in lines]
        self.problems = [problem for problem in self.problems if problem.line not in lines]
        if self.refused is None:
            self.count -= len(told)
            return
        for line in lines & self.refused.keys():
            self.count -= len(self.refused.pop(line))

    def __str__(self) -> str:
        lines = [f"{self.file}: {self.count} error{'s' if self.count > 1 else ''}"]
        lines += [f"  {problem}" for problem in self.problems]
        if self.count > len(self.problems):
            lines.append(f"  and {self.count - len(self.problems)} more")
        if self.hints:
            said = "; ".join(sorted(self.hints))
            lines.append(f"  If that is form alone, say in mapping.yml beside it: {said}")
        return "\n".join(lines)


class DropError(ValueError):
    """A drop that was refused; `reports` has the errors of each file."""

    def __init__(self, folder: Path | str, reports: list[Report]) -> None:
        self.folder, self.reports = folder, reports
        super().__init__(
            "\n".join(
                [
                    f"{folder} was refused and nothing was changed.",
                    *map(str, reports),
                    "Correct it and load the folder again.",
                ]
            )
        )


def order_problems(header: list[Column], cells: list[str | None], line: int) -> Iterator[Problem]:
    """Instants of one row that come in the wrong order."""
    values = {column.name: cell for column, cell in zip(header, cells, strict=True)}
    for column in header:
        later, earlier = values[column.name], values.get(column.not_before)
        if later and earlier and _instant(later) < _instant(earlier):
            text = f"{show(later)} lies before {column.not_before} {show(earlier)}"
            yield Problem(line, column.name, text)


def cell_problem(column: Column, text: str, day: date) -> str | None:
    """What is wrong with a cell, None when nothing is."""
    if not text:
        if column.nullable or column.optional:
            return None
        return f"empty; expected {column.expected}"
    if not text.isascii() and any("\udc80" <= character <= "\udcff" for character in text):
        return f"{show(text)} is not UTF-8"
    if column.is_id and text.casefold() in NO_ID:
        return f"{show(text)} says that there is none; expected {column.expected}"
    right = len(text) <= column.type.longest and bool(re.fullmatch(column.type.pattern, text))
    if right and column.type.to_sql:
        try:
            column.type.to_sql(text)
        except ValueError:
            right = False
    if right and column.type.name == "date":
        value = to_date(text)
        right = value is not None
        if value and value > day:
            return f"{show(text)} lies after the drop ({day})"
    elif right and column.type.name == "instant":
        try:
            moment = _instant(text)
        except ValueError:
            right = False
        else:
            if moment.date() > day:
                return f"{show(text)} lies after the drop ({day})"
    return None if right else f"{show(text)}; expected {column.expected}"


def to_date(text: str) -> date | None:
    """The date written as YYYY-MM-DD, None when there is no such date."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").date() if len(text) == 10 else None
    except ValueError:
        return None


def _instant(text: str) -> datetime:
    """An instant in the contract's form, in UTC; ValueError when it does not exist."""
    parts = re.fullmatch(r"(.{10}).(\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(.*)", text)
    if parts is None:
        raise ValueError(text)
    day, hour, minute, second, fraction, offset = parts.groups()
    moment = datetime.fromisoformat(
        f"{day}T{hour}:{minute}:{second or '00'}.{(fraction or '').ljust(6, '0')}+00:00"
    )
    if offset not in ("", "Z"):
        digits = offset[1:].replace(":", "").ljust(4, "0")
        east = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
        moment += east if offset[0] == "-" else -east
    return moment


def show(text: str) -> str:
    """A value as it can be printed on one line: quoted, escaped, at most 60 characters."""
    readable = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    escaped = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in readable[:60]
    )
    return f"'{escaped}'" + (f"... ({len(text)} characters)" if len(readable) > 60 else "")
