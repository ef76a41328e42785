"""A folder that is a drop: its date, its files, and how they are written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from pathlib import Path

from data.contract import Table, declared
from data.load.check import DropError, Report, show, to_date
from data.load.mapping import NAME, Form, read_mapping

ENDINGS = (".csv", ".csv.gz", ".parquet")


@dataclass(frozen=True)
class Drop:
    """A folder that is a drop: its date and its files."""

    folder: Path
    day: date
    files: dict[str, Path]  # table name -> file
    forms: Mapping[str, Form] = field(default_factory=dict)  # empty: as the contract says

    @property
    def as_of(self) -> datetime:
        """The instant the drop describes: midnight UTC of its date."""
        return datetime(self.day.year, self.day.month, self.day.day, tzinfo=timezone.utc)


def find_drop(folder: Path | str, tables: Sequence[Table] | None = None) -> Drop:
    """The drop in `folder`, whose name is its date.

    Raises:
        DropError: the folder is missing, its name is no date, it holds what is neither in the
            contract nor in its mapping, or two files for one table. Hidden files (.DS_Store) are
            passed over.
    """
    path = Path(os.path.abspath(folder))
    tables = declared() if tables is None else tables
    report = Report("the folder")
    day = to_date(path.name)
    files: dict[str, Path] = {}
    forms: Mapping[str, Form] = {}
    if not path.is_dir():
        report.add(0, "", "there is no such folder" if not path.exists() else "is not a folder")
    else:
        forms = read_mapping(path, tables) or {}
        files = _files(path, tables, forms, report)
    if day is None:
        report.add(
            0, "", f"its name {show(path.name)} is no date; expected YYYY-MM-DD, such as 2024-01-31"
        )
    if report.count or day is None:
        raise DropError(folder, [report])
    return Drop(path, day, {t.name: files[t.name] for t in tables if t.name in files}, forms)


def _files(
    folder: Path, tables: Sequence[Table], forms: Mapping[str, Form], report: Report
) -> dict[str, Path]:
    """Table name -> its file; notes every file that is none, and every second one."""
    known: dict[str, list[str]] = {}  # a file may hold several tables
    for table in tables:
        mapped = forms[table.name].file if forms else ""
        for name in [mapped] if mapped else [table.name + ending for ending in ENDINGS]:
            known.setdefault(name, []).append(table.name)
    files: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name == NAME:
            continue
        if entry.name not in known or not entry.is_file():
            expected = ", ".join(table.file for table in tables)
            text = f"{show(entry.name)} is not a file of a drop; expected {expected}"
            report.add(0, "", text)
            continue
        for name in known[entry.name]:
            if name in files:
                report.add(0, "", f"{files[name].name} and {entry.name} are both {name}; leave one")
            files[name] = entry
    if not files and not report.count:
        expected = ", ".join(table.file for table in tables)
        report.add(0, "", f"is empty; expected at least one of {expected}")
    return files
