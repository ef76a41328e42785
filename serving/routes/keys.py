"""Join keys as they come in: from a query string or a body, checked by their types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from data.contract import USER, is_user_id
from serving.catalogue import Catalogue, Service
from serving.problems import Problem
from serving.store.base import KeyColumns

LARGEST = 2**63


def of_text(kind: str, text: str) -> Any:
    """A key's value as a query string has it. Raises ValueError: no key of that type."""
    if kind == "bigint":
        text = text if text.removeprefix("-").isdecimal() and text.isascii() else "no number"
    return of_json(kind, int(text) if kind == "bigint" else text)


def of_json(kind: str, value: Any) -> Any:
    """A key's value as JSON has it. Raises ValueError: no key of that type."""
    if kind == "bigint":
        if isinstance(value, bool) or not isinstance(value, int) or not -LARGEST <= value < LARGEST:
            raise ValueError
        return value
    if not isinstance(value, str):
        raise ValueError
    if kind == "uuid":
        return UUID(value)
    if not is_user_id(value):
        raise ValueError
    return value


def request_of(
    service: Service, given: Mapping[str, Any], *, texts: bool = False
) -> dict[str, Any]:
    """What a request brings for on-demand features, as their types have it.

    Raises:
        Problem: 422, something is missing, or no value of its type.
    """
    found = {}
    for name, kind in service.request.items():
        if name not in given:
            detail = f"{service.name} computes features from {name}, which is missing."
            raise Problem(422, "bad-request-data", detail)
        try:
            found[name] = _given(kind, given[name], texts)
        except (ValueError, TypeError):
            detail = f"{name}: expected a {kind}."
            raise Problem(422, "bad-request-data", detail) from None
    return found


def _given(kind: str, value: Any, texts: bool) -> Any:
    if texts:
        value = _of_text(kind, value)
    fits = {"Bool": bool, "String": str, "Int64": int, "Int32": int}.get(kind, int | float)
    if value is not None and (
        not isinstance(value, fits) or (isinstance(value, bool) and kind != "Bool")
    ):
        raise ValueError
    return float(value) if value is not None and kind.startswith("Float") else value


def _of_text(kind: str, text: str) -> Any:
    if kind == "String":
        return text
    if kind == "Bool":
        return text == "true" if text in ("true", "false") else text
    return int(text) if kind.startswith("Int") else float(text)


EXPECTED = {"text": USER.expected, "bigint": "a whole number of 64 bits", "uuid": "a UUID"}


def columns(service: Service, rows: Sequence[Mapping[str, Any]], read: Any = of_json) -> KeyColumns:
    """The keys of a service out of rows of key -> value.

    Raises:
        Problem: 422, a row lacks a key, has another, or one that is none of its type.
    """
    found: dict[str, list[Any]] = {key: [] for key in service.keys}
    for place, row in enumerate(rows):
        if unknown := row.keys() - found.keys() - service.request.keys():
            raise _wrong(place, min(unknown), f"is no key; there are: {', '.join(found)}")
        for key, kind in service.keys.items():
            if key not in row:
                raise _wrong(place, key, "is missing")
            try:
                found[key].append(read(kind, row[key]))
            except ValueError:
                raise _wrong(place, key, f"expected {EXPECTED[kind]}") from None
    return list(found.values())


def _wrong(place: int, key: str, what: str) -> Problem:
    where = [{"at": f"entities.{place}.{key}", "message": what}]
    return Problem(422, "bad-keys", f"{key[:100]}: {what}.", errors=where)


def service_of(catalogue: Catalogue, entity: str, name: str | None, default: str) -> str:
    """The feature service to ask about an entity: as named, or the only one with its keys.

    Raises:
        Problem: 404, no such entity; 422, the service takes other keys, or none is the only one.
    """
    keys = catalogue.entities.get(entity)
    if keys is None:
        have = sorted(catalogue.entities)
        detail = f"There is no entity {entity[:100]}."
        raise Problem(404, "unknown-entity", detail, entities=have)
    if name is None:
        fitting = [s.name for s in catalogue.services.values() if s.keys.keys() == keys.keys()]
        if default in fitting or len(fitting) == 1:
            return default if default in fitting else fitting[0]
        detail = f"Say which service: {' or '.join(fitting) or f'none is about a {entity} alone'}."
        raise Problem(422, "other-entity", detail, services=fitting)
    service = catalogue.services.get(name)
    if service is not None and service.keys.keys() - keys.keys():
        detail = (
            f"The feature service {name} is keyed by {' and '.join(service.keys)}, "
            f"a {entity} by {' and '.join(keys)}."
        )
        raise Problem(422, "other-entity", detail)
    return name
