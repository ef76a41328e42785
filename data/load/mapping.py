"""Files that say the same in another form: `mapping.yml`, in the drop's folder or beside it.

    separator: ";"              # of CSV; default ","
    encoding: cp1252            # of CSV; default UTF-8
    quotes: none                # of CSV: a " is a letter as any other
    dates: DD/MM/YYYY           # also "DD.MM.YYYY hh:mm:ss", "MM/DD/YYYY hh:mm AM", epoch_seconds,
                                # _milliseconds, _microseconds; or one a column: {opened_at: ...}
    time_zone: Europe/Berlin    # of instants without one; default UTC
    true: [yes, Y, 1]           # the words for true and false, in any case
    false: [no, N, 0]
    empty: [NULL, n/a, "-"]     # what stands for an empty cell
    decimal: ","                # the decimal sign, and the one between thousands
    thousands: "."
    list_separator: "|"         # of arrays that are not written as JSON: a|b|c
    currency: "$"               # stands before or after amounts; no amount is converted
    sign: negated               # of amounts; negated or absolute
    unknown_columns: ignore     # name and ignore columns that no entry needs; default: an error
    files:
      users:                    # any of the above for one file alone, and:
        file: customers.csv.gz  # default: users.csv, users.csv.gz or users.parquet
        columns: {user_id: CustomerID}              # ours: theirs
        values: {contract_type: {M2M: Month-to-month}}
        make: {payment_id: "{invoice}/{line}"}      # from their columns; {line} counts the lines
        header: [CustomerID, since]                 # of CSV whose first line holds values
        only: {event_type: [purchase]}              # rows of which their column has such a word
        repeats: first          # of a state: keep a user's first (or last) row; default: an error

With a mapping, names of columns are taken without regard to case and spaces around them, and values
without spaces around them. What it can't mean stays as it is, and is an error of the drop.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import yaml

from data.contract import Column, Table
from data.load.check import DropError, Report, show

NAME = "mapping.yml"
Convert = Callable[[str], str]
EPOCHS = {"epoch_seconds": 1, "epoch_milliseconds": 1_000, "epoch_microseconds": 1_000_000}
PLAUSIBLE = 80_000_000  # seconds since 1970: an instant before July 1972 is of another unit
TOKENS = {
    "YYYY": "%Y", "YY": "%y", "MM": "%m", "DD": "%d", "hh": "%H", "mm": "%M", "ss": "%S",
    "SSS": "%f", "AM": "%p", "+hhmm": "%z",
}  # fmt: skip
TIMES = ("%H", "%I")


class ConvertError(ValueError):
    """A cell is not what the mapping says; completes "expected ..."."""


@dataclass(frozen=True)
class Form:
    """How one table's file is written."""

    file: str = ""  # "": the table's own name
    separator: str = ","
    encoding: str = ""  # "": UTF-8
    quotes: str = "csv"
    dates: str | Mapping[str, str] = ""
    time_zone: str = "UTC"
    true: tuple[str, ...] = ()
    false: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    decimal: str = "."
    thousands: str = ""
    list_separator: str = ""
    currency: str = ""
    sign: str = "as_is"
    unknown_columns: str = "error"
    columns: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    make: Mapping[str, str] = field(default_factory=dict)
    header: tuple[str, ...] = ()
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    repeats: str = "error"

    def date_format(self, column: Column) -> str:
        """The form of that column's dates or instants; "": the contract's."""
        if isinstance(self.dates, str):
            return self.dates
        return self.dates.get(column.name, "")

    def converter(self, column: Column) -> Convert:
        """From a cell of the file to the contract's form of it. It raises ConvertError."""
        kind = column.type.name
        known = self.values.get(column.name, {})
        change: Convert = lambda text: text  # noqa: E731
        if kind == "boolean" and (self.true or self.false):
            change = _words(self.true, self.false)
        elif column.type.is_number:
            change = self._number(kind)
        elif kind in ("date", "instant"):
            change = self._moment(column)
        elif column.type.sql.endswith("[]") and self.list_separator:
            change = self._array(column.type.sql == "text[]")

        def convert(text: str) -> str:
            text = text.strip()
            if text in known:
                return known[text]
            return "" if not text or text in self.empty else change(text)

        return convert

    def _array(self, texts: bool) -> Convert:
        def change(text: str) -> str:
            if text.startswith("["):
                return text
            items = [item.strip() for item in text.split(self.list_separator)]
            return json.dumps(items) if texts else f"[{','.join(items)}]"

        return change

    def _number(self, kind: str) -> Convert:
        # Without a look at the groups 9,99 would pass for 999 where a comma parts thousands.
        part = re.escape(self.thousands)
        grouped = re.compile(
            rf"[^0-9]*[0-9]{{1,3}}(?:{part}[0-9]{{2,3}})*{part}[0-9]{{3}}(?![0-9])(?:(?!{part}).)*"
        )

        def change(text: str) -> str:
            plain = text.replace(self.currency, "").strip() if self.currency else text
            if self.thousands and self.thousands in plain:
                if not grouped.fullmatch(plain):
                    raise ConvertError(f"thousands parted by {show(self.thousands)}")
                plain = plain.replace(self.thousands, "")
            if self.decimal != ".":
                plain = plain.replace(self.decimal, ".")
            try:
                number = Decimal(plain)
            except InvalidOperation:
                return text
            if not number.is_finite():
                return text
            if kind != "count" and self.sign != "as_is":
                number = -number if self.sign == "negated" else abs(number)
            if kind == "double":
                return plain if self.sign == "as_is" else str(number)
            written = f"{number:f}"  # normalize() would round to 28 digits
            return written.rstrip("0").rstrip(".") if "." in written else written

        return change

    def _moment(self, column: Column) -> Convert:
        form = self.date_format(column)
        zone = timezone.utc if self.time_zone == "UTC" else ZoneInfo(self.time_zone)
        is_date = column.type.name == "date"

        def say(moment: datetime, has_time: bool) -> str:
            if is_date and not has_time:
                return f"{moment:%Y-%m-%d}"
            if moment.tzinfo is None:
                if moment != _in_utc(moment, zone).astimezone(zone).replace(tzinfo=None):
                    raise ConvertError(f"a time that exists in {self.time_zone}")
                moment = _in_utc(moment, zone)
            moment = moment.astimezone(timezone.utc)
            if is_date:
                return f"{moment:%Y-%m-%d}"
            return moment.replace(tzinfo=None).isoformat() + "Z"

        if form in EPOCHS:

            def change(text: str) -> str:
                try:
                    micros = Decimal(text) * (1_000_000 // EPOCHS[form])
                    if 0 < micros < PLAUSIBLE * 1_000_000 and form != "epoch_seconds":
                        smaller = "an instant of our time as"
                        raise ConvertError(f"{smaller} {form.replace('_', ' ')}; is it of seconds?")
                    start = datetime(1970, 1, 1, tzinfo=timezone.utc)
                    return say(start + timedelta(microseconds=int(micros)), True)
                except ConvertError:
                    raise
                except (InvalidOperation, OverflowError, ValueError):
                    raise ConvertError(f"an instant as {form.replace('_', ' ')}") from None

        elif form:
            pattern = _strptime(form)

            def change(text: str) -> str:
                try:
                    moment = datetime.strptime(text, pattern)
                except ValueError:
                    kind = "a date" if is_date else "an instant"
                    raise ConvertError(f"{kind} as {form}") from None
                return say(moment, any(time in pattern for time in TIMES))

        else:
            naive = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?")

            def change(text: str) -> str:
                if self.time_zone == "UTC" or not naive.fullmatch(text):
                    return text
                try:
                    return say(datetime.fromisoformat(_six_digits(text)), True)
                except ValueError:
                    return text

        return change


def _in_utc(moment: datetime, zone: Any) -> datetime:
    return moment.replace(tzinfo=zone).astimezone(timezone.utc)


def _six_digits(text: str) -> str:
    """Python 3.10 reads three or six digits of a second."""
    head, dot, fraction = text.partition(".")
    return f"{head}.{fraction.ljust(6, '0')}" if dot else head


def _strptime(form: str) -> str:
    if "%" in form:
        return form
    pattern = re.sub("|".join(map(re.escape, TOKENS)), lambda token: TOKENS[token[0]], form)
    return pattern.replace("%H", "%I") if "%p" in pattern else pattern


def _words(true: tuple[str, ...], false: tuple[str, ...]) -> Convert:
    words = {word.casefold(): "true" for word in true}
    words |= {word.casefold(): "false" for word in false}

    def change(text: str) -> str:
        if (said := words.get(text.casefold())) is None:
            raise ConvertError(f"one of {', '.join([*true, *false])}")
        return said

    return change


def read_mapping(folder: Path, tables: Sequence[Table]) -> dict[str, Form] | None:
    """The form of each table's file, from the folder's mapping.yml or the one beside it.

    Raises:
        DropError: the mapping cannot be read, or names what there is not.
    """
    for path in (folder / NAME, folder.parent / NAME):
        if path.is_file():
            report = Report(str(path.name if path.parent == folder else path))
            forms = _parse(path, tables, report)
            if report.count:
                raise DropError(folder, [report])
            return forms
    return None


def _parse(path: Path, tables: Sequence[Table], report: Report) -> dict[str, Form]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)  # texts only
    except UnicodeDecodeError:
        report.add(0, "", "is not UTF-8")
        return {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 0
        report.add(line, "", f"is no YAML: {getattr(error, 'problem', None) or error}")
        return {}
    content = content or {}
    if not isinstance(content, dict):
        report.add(0, "", "expected keys and values, such as separator: ';'")
        return {}
    files = content.pop("files", None) or {}
    base = _form(Form(), content, "", report)
    known = {table.name: table for table in tables}
    forms = dict.fromkeys(known, base)
    if not isinstance(files, dict):
        report.add(0, "files", f"{show(str(files))}; expected an entry a table")
        return forms
    for name, entries in files.items():
        where = f"files.{name}"
        if name not in known:
            report.add(0, where, f"no table of a drop; expected one of {', '.join(known)}")
        elif not isinstance(entries or {}, dict):
            report.add(0, where, f"{show(str(entries))}; expected keys and values")
        else:
            forms[name] = _form(base, entries or {}, where, report, known[name])
    return forms


_FOR_ONE_FILE = ("file", "columns", "values", "make", "header", "only", "repeats")


def _form(
    base: Form, entries: dict[Any, Any], where: str, report: Report, table: Table | None = None
) -> Form:
    """`base` with the entries of mapping.yml; notes what is wrong with them."""
    changes: dict[str, Any] = {}
    allowed = [n for n in Form.__dataclass_fields__ if table is not None or n not in _FOR_ONE_FILE]
    for name, value in entries.items():
        at = ".".join(filter(None, (where, name)))
        if name not in allowed:
            report.add(0, at, f"unknown; expected one of {', '.join(allowed)}")
            continue
        try:
            changes[name] = _value(name, value, table)
        except ConvertError as error:
            report.add(0, at, f"{show(str(value))}; expected {error}")
    return replace(base, **changes)


def _value(name: str, value: Any, table: Table | None) -> Any:
    columns = {column.name for column in table.columns} if table else set()
    if name == "header":
        if not isinstance(value, list) or not value or len(set(map(str, value))) < len(value):
            raise ConvertError("a list of names, all different")
        return tuple(map(str, value))
    if name in ("true", "false", "empty"):
        return _some(value)
    if name == "only":
        if not isinstance(value, dict):
            raise ConvertError("for each of their columns the words that it has in rows to load")
        return {column: _some(words) for column, words in value.items()}
    if name in ("columns", "make", "values"):
        if not isinstance(value, dict) or not set(value) <= columns:
            raise ConvertError(f"entries for columns of {', '.join(sorted(columns))}")
        if name != "values":
            return value
        if not all(isinstance(words, dict) for words in value.values()):
            raise ConvertError("for each column their words and ours")
        return value
    if name == "dates" and isinstance(value, dict):
        return {column: _date_form(form) for column, form in value.items()}
    if name == "dates":
        return _date_form(value)
    text = str(value)
    choices = {
        "sign": ("as_is", "negated", "absolute"),
        "unknown_columns": ("error", "ignore"),
        "decimal": (".", ","),
        "quotes": ("csv", "none"),
        "repeats": ("error", "first", "last"),
    }
    if name in choices and text not in choices[name]:
        raise ConvertError(f"one of {', '.join(choices[name])}")
    if name == "separator" and (len(text) != 1 or text in '"\r\n'):
        raise ConvertError("one character, such as ';' or '\\t'")
    if name == "encoding":
        try:
            return codecs.lookup(text).name
        except LookupError:
            raise ConvertError("an encoding that Python knows, such as cp1252") from None
    if name == "repeats" and table is not None and table.is_event:
        raise ConvertError("it for states and aggregates; an event of one id is one event")
    if name == "time_zone":
        try:
            ZoneInfo(text)
        except (KeyError, ValueError, OSError):
            raise ConvertError("a name of the time zone database, such as Europe/Berlin") from None
    return text


def _some(value: Any) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, (dict, list)) for item in items):
        raise ConvertError("a list of words")
    return tuple(items)


def _date_form(form: Any) -> str:
    text = str(form)
    pattern = _strptime(text)
    if text not in EPOCHS and not all(part in pattern.lower() for part in ("%y", "%m", "%d")):
        raise ConvertError(f"a form such as DD/MM/YYYY, or {', '.join(EPOCHS)}")
    return text
