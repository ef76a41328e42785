"""From a row of the store to the bytes of an answer."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from email.utils import formatdate
from typing import Any

import orjson

from serving.catalogue import CLOCKS, Catalogue, Row, Service
from serving.problems import Problem
from streamflow_feast.on_demand import OnDemandError

EPOCH_2000 = datetime(2000, 1, 1, tzinfo=timezone.utc)
UNIX_2000 = int(EPOCH_2000.timestamp())
REMEMBERED = 1000  # combinations of clocks


def _text(value: object) -> str:
    """What JSON has no form for: a decimal with all its digits, an ISO date, a base64 of bytes."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return str(value)
    raise TypeError(type(value).__name__)


def encode(value: Any) -> bytes:
    """A value as JSON; null in place of numbers that JSON has none of: NaN and infinity."""
    return orjson.dumps(value, _text, orjson.OPT_PASSTHROUGH_DATETIME)


def moment(micros: int) -> datetime:
    """The instant of microseconds since 2000."""
    return EPOCH_2000 + timedelta(microseconds=micros)


def instant(micros: int) -> str:
    """ISO 8601 in UTC of microseconds since 2000, as short as it is exact."""
    try:
        return moment(micros).isoformat().replace("+00:00", "Z")
    except OverflowError:  # Postgres' infinity
        return "infinity" if micros > 0 else "-infinity"


def micros(of: datetime) -> int:
    """Microseconds since 2000 of an aware datetime."""
    return (of - EPOCH_2000) // timedelta(microseconds=1)


@dataclass(frozen=True)
class Origin:
    """What an answer says about where its values come from; shared by users of one publication."""

    second: int  # the Unix time it was made for: ages are whole seconds
    found: bool
    expired: tuple[str, ...]  # features withheld because their view's row is older than its ttl
    head: bytes  # '"found":...,"service":...,"as_of":...,"features":'
    tail: bytes  # ',"views":{...}}'
    etag: bytes  # empty: cannot be cached
    last_modified: bytes  # an HTTP date; empty: unknown


class Answers:
    """Makes answers for one catalogue; `invocations`: known_at -> dbt invocation id."""

    def __init__(self, catalogue: Catalogue, invocations: Mapping[int, str | None]) -> None:
        self.catalogue = catalogue
        self._invocations = invocations
        self._origins: dict[tuple[object, ...], Origin] = {}
        self.missing: set[int] = set()  # known_at without an entry in `invocations`

    def forget(self) -> set[int]:
        """Drop what was remembered about origins; the known_at that had no invocation."""
        missing, self.missing = self.missing, set()
        self._origins.clear()
        return missing

    def origin(self, service: Service, row: Row) -> Origin:
        """The origin of a row's values, as of this second."""
        clocks, values = service.clocks_of(row), service.values_of(row)
        # Views with a row and no value; the first value tells nearly always that it is none.
        empty = tuple(
            [
                start
                for start, end in service.spans
                if values[start] is None and all(value is None for value in values[start:end])
            ]
        )
        key = (service.name, clocks, empty)
        second = int(time.time())
        origin = self._origins.get(key)
        if origin is None or origin.second != second:
            if len(self._origins) >= REMEMBERED:
                self._origins.clear()
            origin = self._origins[key] = self._origin(service, clocks, empty, second)
        return origin

    def one(
        self, service: Service, who: bytes, row: Row, given: Mapping[str, Any]
    ) -> tuple[bytes, Origin]:
        """The answer about one entity; `who` are the members that say which, as JSON, and `given`
        what the request brings for on-demand features.

        Raises:
            Problem: 500, they cannot be computed.
        """
        origin = self.origin(service, row)
        features = dict(zip(service.names, service.values_of(row), strict=True))
        if origin.expired:
            features |= dict.fromkeys(origin.expired)
        if service.on_demand:
            [features] = on_demand(service, [features], [given])
        if service.of_other_form:
            text = _members(features, service.of_other_form)
        else:
            text = encode(features)
        return b"{%b,%b%b%b" % (who, origin.head, text, origin.tail), origin

    def _origin(self, service: Service, clocks: Row, empty: tuple[int, ...], second: int) -> Origin:
        now = int((time.time() - UNIX_2000) * 1_000_000)
        views: dict[str, dict[str, object]] = {}
        statuses: list[str] = []
        expired: list[str] = []
        for place, view in enumerate(service.views):
            as_of, known_at, _ = clocks[CLOCKS * place : CLOCKS * (place + 1)]
            if as_of is None:
                status = "unknown"
            elif view.ttl_seconds and now - as_of > view.ttl_seconds * 1_000_000:
                status = "older_than_ttl"
                expired += [feature.name for feature in view.features]
            elif view.first in empty:
                status = "null"
            else:
                status = "found"
            statuses.append(status)
            if known_at is not None and known_at not in self._invocations:
                self.missing.add(known_at)
            views[view.name] = {
                "status": status,
                "as_of": None if as_of is None else instant(as_of),
                "age_seconds": None if as_of is None else (now - as_of) // 1_000_000,
                "known_at": None if known_at is None else instant(known_at),
                "invocation_id": self._invocations.get(known_at),
            }
        as_ofs = [as_of for as_of in clocks[0::CLOCKS] if as_of is not None]
        head = {
            "found": bool(as_ofs),
            "service": service.name,
            "as_of": instant(min(as_ofs)) if as_ofs else None,
        }
        etag, last_modified = b"", b""
        written = [moment for moment in clocks[2::CLOCKS] if moment is not None]
        # (What a request brings is part of the answer, and of no row.)
        if len(written) == len(as_ofs) and not service.request:
            invocations = [view["invocation_id"] for view in views.values()]
            state = repr((service.digest, clocks, statuses, invocations))
            etag = b'W/"%b"' % hashlib.blake2b(state.encode(), digest_size=12).hexdigest().encode()
            # An expired or absent row changes the answer without anything having been written.
            if all(status in ("found", "null") for status in statuses):
                changed = UNIX_2000 + max(written) // 1_000_000
                changed = max(changed, int(self.catalogue.updated_at.timestamp()))
                last_modified = formatdate(changed, usegmt=True).encode()
        return Origin(
            second,
            bool(as_ofs),
            tuple(expired),
            encode(head)[1:-1] + b',"features":',
            b',"views":' + encode(views) + b"}",
            etag,
            last_modified,
        )


def on_demand(
    service: Service, rows: Sequence[Mapping[str, Any]], given: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The features of rows as answered: the published ones and those computed from them.

    Raises:
        Problem: 500, they cannot be computed.
    """
    assert service.on_demand is not None
    inputs = [
        {
            f"{view.shown}:{feature.column}": _input(feature.kind, features[feature.name])
            for view in service.views
            for feature in view.features
        }
        for features in rows
    ]
    try:
        computed = service.on_demand.compute(inputs, given)
    except OnDemandError as error:
        detail = "A function of the service's on-demand features failed; the log says how."
        raise Problem(500, "not-computed", detail, log=str(error)) from None
    return [
        {name: value for name, value in features.items() if name not in service.hidden} | more
        for features, more in zip(rows, computed, strict=True)
    ]


def _input(kind: str, value: Any) -> Any:
    return moment(value) if kind == "timestamp with time zone" and value is not None else value


def _members(features: Mapping[str, Any], forms: Mapping[str, str]) -> bytes:
    """Features as JSON, where `forms` says which are read in a form of their own: an instant as
    microseconds, and jsonb as its text, which stays as it is with all digits of its numbers."""
    parts = []
    for name, value in features.items():
        form = forms.get(name)
        if value is None or form is None:
            text = encode(value)
        else:
            text = value.encode() if form == "jsonb" else encode(instant(value))
        parts.append(b"%b:%b" % (encode(name), text))
    return b"{%b}" % b",".join(parts)


def user(user_id: str) -> bytes:
    """Who a user's answer is about."""
    return b'"user_id":%b' % encode(user_id)


def entity(keys: Mapping[str, object]) -> bytes:
    """Who any other entity's answer is about: its join keys."""
    return b'"entity":%b' % encode(dict(keys))
