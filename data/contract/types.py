"""The types of raw columns: how a value is written in a file, and as what Postgres keeps it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

NO_ID = ("null", "nan", "none", "n/a", "<na>")
"""What tools write for an id that is missing; in any case."""
MAX_CHARACTERS = 200
"""Longest value of most cells; longer ones are taken for damage."""
MAX_WIDE = 100_000
"""Longest JSON or array; 384 doubles take 8,000 characters."""


@dataclass(frozen=True)
class Type:
    """How a value is written in a file, and as what Postgres keeps it."""

    name: str
    sql: str
    pattern: str  # of the whole cell; means the same to Python's `re` and to RE2
    expected: str  # completes "expected ..."
    to_sql: Callable[[str], str] | None = None  # the cell as COPY takes it; ValueError: it is none
    """Where a pattern cannot say what is right. Such a column is read by the slow reader."""

    @property
    def is_number(self) -> bool:
        """Whether a decimal sign, a currency or thousands may be written into it."""
        return self.sql in ("bigint", "double precision") or self.sql.startswith("numeric(")

    @property
    def longest(self) -> int:
        """The most characters of a cell."""
        return MAX_WIDE if self.to_sql else MAX_CHARACTERS


# Control characters, line separators and a byte order mark never belong into a text.
_INNER = r"[^\x00-\x1f\x7f-\x9f" + "\u2028\u2029\ufeff]"
_SPACES = " \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
_EDGE = _INNER[:-1] + _SPACES + "]"
_DATE = r"(?:19|20|21)[0-9]{2}-[0-9]{2}-[0-9]{2}"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,6})?)?"
_OFFSET = r"(?:Z|[+-](?:0[0-9]|1[0-4])(?::?[0-5][0-9])?)"
_LETTERS = f"of 1 to {MAX_CHARACTERS} characters, no spaces around it, no control characters"


def _up_to(most: int) -> str:
    """The pattern of the whole numbers from 0 to `most`, without zeros before them."""
    text = str(most)
    parts = [f"0|[1-9][0-9]{{0,{len(text) - 2}}}", text]
    for place, digit in enumerate(text):
        lowest = 1 if place == 0 else 0
        if int(digit) > lowest:
            smaller = f"[{lowest}-{int(digit) - 1}]"
            parts.append(f"{text[:place]}{smaller}[0-9]{{{len(text) - place - 1}}}")
    return "|".join(parts)


TEXT = Type("text", "text", f"{_EDGE}(?:{_INNER}*{_EDGE})?", f"a text {_LETTERS}")
BOOLEAN = Type(
    "boolean", "boolean", "[Tt]rue|TRUE|[Ff]alse|FALSE", "true or false (any of True, true, TRUE)"
)
# A count's sum still fits a bigint.
COUNT = Type("count", "bigint", "[0-9]{1,15}", "a whole number >= 0 of at most 15 digits")
BIGINT = Type(
    "bigint",
    "bigint",
    f"{_up_to(2**63 - 1)}|-(?:{_up_to(2**63)})",
    f"a whole number between {-(2**63)} and {2**63 - 1}",
)
_DOUBLE = r"[0-9]{1,15}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,2})?"
DOUBLE = Type("double", "double precision", _DOUBLE, "a number >= 0")
SIGNED_DOUBLE = Type("double", "double precision", f"-?{_DOUBLE}", "a number")
DATE = Type("date", "date", _DATE, "a date that exists, as YYYY-MM-DD")
INSTANT = Type(
    "instant",
    "timestamp with time zone",
    f"{_DATE}[T ]{_TIME}{_OFFSET}?",
    "an instant that exists, such as 2024-01-31T18:03:59.123456Z (no offset means UTC)",
)
UUID = Type(
    "uuid",
    "uuid",
    "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "a UUID, such as 123e4567-e89b-12d3-a456-426614174000",
)


@lru_cache
def entity_id(entity: str) -> Type:
    """What names one of an entity: a text that can stand in an address.

    That is what people have: e-mail addresses, paths, names in any script. In a URL they are
    percent-encoded, and there `.` and `..` mean folders however they are written: nobody could ask
    for such a one.
    """
    no_dot = _EDGE[:-1] + ".]"
    pattern = rf"{no_dot}(?:{_INNER}*{_EDGE})?|\.(?:{no_dot}|{_INNER}+{_EDGE})"
    article = "an" if entity[0] in "aeio" else "a"
    return Type(f"{entity} id", "text", pattern, f"{article} {entity} id {_LETTERS}, not . or ..")


USER = entity_id("user")
_USER_ID = re.compile(USER.pattern)


def is_user_id(text: str) -> bool:
    """Whether this can be a user's id: in a file, in a request, on a command line."""
    # A lone surrogate is what is left of a byte that was not UTF-8.
    return (
        len(text) <= MAX_CHARACTERS
        and text.casefold() not in NO_ID
        and _USER_ID.fullmatch(text) is not None
        and (text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text))
    )


def decimal(precision: int, scale: int, *, unsigned: bool = False) -> Type:
    """An exact number with at most `precision - scale` digits before the point."""
    digits = rf"[0-9]{{1,{precision - scale}}}" if precision > scale else "0"
    fraction = rf"(?:\.[0-9]{{1,{scale}}})?" if scale else ""
    return Type(
        "decimal",
        f"numeric({precision},{scale})",
        f"{'' if unsigned else '-?'}{digits}{fraction}",
        f"a number{' >= 0' * unsigned} with at most {precision - scale} digits before the point "
        f"and {scale} after it",
    )


def choice(values: tuple[str, ...]) -> Type:
    """One of a few texts."""
    # Not re.escape: RE2 refuses some of what that makes of letters beyond ASCII.
    pattern = "|".join(re.sub(r"([.^$*+?{}()|\[\]\\])", r"\\\1", value) for value in values)
    return Type("choice", "text", pattern, "one of " + ", ".join(values))


def _refuse(text: str) -> Any:
    raise ValueError(text)


def _json(text: str) -> Any:
    """What a JSON text says, in full precision; ValueError where jsonb would not take it."""
    try:
        value = json.loads(text, parse_float=Decimal, parse_constant=_refuse)
        told = json.dumps(value, ensure_ascii=False, default=str)
        told.encode("utf-8")  # no half of a surrogate pair
    except (RecursionError, ArithmeticError) as error:
        raise ValueError(text) from error
    if re.search(r"(?<!\\)(?:\\\\)*\\u0000", told) or re.search(r"[eE][+-]?[0-9]{4}", text):
        raise ValueError(text)
    return value


def _jsonb(text: str) -> str:
    _json(text)
    return text


JSON = Type("json", "jsonb", r"(?s).+", "JSON", _jsonb)


def array(of: Type, sql: str, meaning: str) -> Type:
    """A JSON array of values of one type, none of them null."""
    item = re.compile(of.pattern)

    def literal(text: str) -> str:
        values = _json(text)
        if not isinstance(values, list):
            raise ValueError(text)
        return "{" + ",".join(_item(of, item, value) for value in values) + "}"

    return Type(f"array of {meaning}", sql, r"(?s)\[.*\]", f"a JSON array of {meaning}", literal)


def _item(of: Type, pattern: re.Pattern[str], value: Any) -> str:
    """An element as Postgres' array literal has it."""
    if of is TEXT:
        if not isinstance(value, str) or "\0" in value:
            raise ValueError(value)
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, (str, list, dict)) or value is None:
        raise ValueError(value)
    if of is SIGNED_DOUBLE and not isinstance(value, bool):
        number = float(value)
        if number in (float("inf"), float("-inf")) or (number == 0 and value != 0):
            raise ValueError(value)
        return repr(number)
    written = str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, bool) != (of is BOOLEAN) or not pattern.fullmatch(written):
        raise ValueError(value)
    return written


_PLAIN = {
    "text": TEXT,
    "bigint": BIGINT,
    "boolean": BOOLEAN,
    "double precision": SIGNED_DOUBLE,
    "date": DATE,
    "timestamp with time zone": INSTANT,
    "uuid": UUID,
    "jsonb": JSON,
    "text[]": array(TEXT, "text[]", "texts"),
    "bigint[]": array(BIGINT, "bigint[]", "whole numbers"),
    "double precision[]": array(SIGNED_DOUBLE, "double precision[]", "numbers"),
    "boolean[]": array(BOOLEAN, "boolean[]", "true and false"),
}
ALLOWED = ", ".join([*_PLAIN, "numeric(p,s)"])


def of_sql(name: str, *, unsigned: bool = False) -> Type | None:
    """The type that a declaration calls by its name in Postgres; None: it is not one of ours."""
    name = re.sub(r"\btimestamptz\b", "timestamp with time zone", " ".join(name.lower().split()))
    if found := re.fullmatch(r"numeric ?\( ?(\d+) ?(?:, ?(\d+) ?)?\)", name):
        precision, scale = int(found[1]), int(found[2] or 0)
        if not 1 <= precision <= 100 or scale > precision:
            return None
        return decimal(precision, scale, unsigned=unsigned)
    if unsigned:
        return {"bigint": COUNT, "double precision": DOUBLE}.get(name)
    return _PLAIN.get(name)
