"""Read the declaration of the raw tables, strictly: what is not understood is an error."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from data.contract.tables import Column, Table
from data.contract.types import ALLOWED, TEXT, choice, entity_id, of_sql
from data.paths import DBT_PROJECT

FILE = Path("models") / "staging" / "_sources.yml"
SOURCE, LEDGER = "raw", "loads"
GRAINS = ("state", "event", "aggregate")
NAME = re.compile(r"[a-z_][a-z0-9_]*")
LONGEST_NAME = 48  # with what is added for an index it fits Postgres' 63
BOOKKEEPING = ("as_of", "load_id", "loaded_at", "replaced_by", "superseded_by")
RESERVED = (*BOOKKEEPING, "line")  # `line` is of the loader's temporary tables
OF_TABLE = ("grain", "key", "event_time", "since")
OF_COLUMN = ("entity", "nullable", "optional", "unit", "values", "unsigned", "not_before")


class DeclarationError(ValueError):
    """The declaration of the raw tables cannot be used; the text says where and why."""


def declared(project: Path | str | None = None) -> tuple[Table, ...]:
    """The tables that the dbt project (default: this one's, or DBT_PROJECT_DIR's) declares.

    Raises:
        DeclarationError: an entry says what is not understood.
    """
    folder = Path(project or os.environ.get("DBT_PROJECT_DIR") or DBT_PROJECT)
    path = folder / FILE
    try:
        return _read(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise DeclarationError(f"{path} cannot be read: {error.strerror}") from None


@lru_cache(maxsize=8)
def _read(path: Path, changed_at: int) -> tuple[Table, ...]:
    return read(path.read_text(encoding="utf-8"), str(path))


def read(text: str, name: str = FILE.name) -> tuple[Table, ...]:
    """The tables that a text in the form of `_sources.yml` declares; `name` is its name in errors.

    Raises:
        DeclarationError: as above.
    """
    try:
        content = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise DeclarationError(f"{name} is no YAML: {error}") from None
    sources = content.get("sources") if isinstance(content, dict) else None
    found = [s for s in sources or [] if isinstance(s, dict) and s.get("name") == SOURCE]
    if len(found) != 1 or not isinstance(found[0].get("tables"), list):
        raise DeclarationError(f"{name}: expected one source named {SOURCE!r} with `tables`")
    tables: dict[str, Table] = {}
    for entry in found[0]["tables"]:
        if isinstance(entry, dict) and entry.get("name") == LEDGER:
            continue
        table = _Entry(name, entry, "a table").table()
        if table.name in tables:
            raise DeclarationError(f"{name}: table {table.name} is declared twice; leave one")
        tables[table.name] = table
    if not tables:
        raise DeclarationError(f"{name}: no table is declared in the source {SOURCE!r}")
    return tuple(tables.values())


class _Entry:
    """One entry (a table or a column) and where it stands."""

    def __init__(self, where: str, entry: Any, what: str) -> None:
        self.where, self.entry = where, entry
        if not isinstance(entry, dict):
            raise self.error(f"{entry!r}; expected {what} with name, description and so on")
        name = entry.get("name")
        if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
            raise self.error(
                f"{what} is named {name!r}; expected small letters, digits and _, "
                f"at most {LONGEST_NAME}"
            )
        self.name = name
        self.where = f"{where}: {what.split()[1]} {name}"
        config = entry.get("config") or {}
        self.meta = (config.get("meta") if isinstance(config, dict) else None) or {}
        if not isinstance(self.meta, dict):
            raise self.error(f"config.meta is {self.meta!r}; expected keys and values")

    def error(self, text: str) -> DeclarationError:
        return DeclarationError(f"{self.where}: {text}")

    def only(self, allowed: tuple[str, ...]) -> None:
        for key in self.meta:
            if key not in allowed:
                raise self.error(f"config.meta has {key!r}; expected any of {', '.join(allowed)}")

    def text(self, key: str, within: dict[str, Any] | None = None) -> str:
        value = (self.meta if within is None else within).get(key)
        if value is not None and not isinstance(value, str):
            raise self.error(
                f"{key} is {value!r}; expected a text (in quotes, where YAML needs it)"
            )
        return " ".join((value or "").split())

    def flag(self, key: str) -> bool:
        value = self.meta.get(key, False)
        if not isinstance(value, bool):
            raise self.error(f"{key} is {value!r}; expected true or false")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.meta.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(f"{key} is {value!r}; expected a list of texts")
        if len(set(value)) < len(value):
            raise self.error(f"{key} is {value!r}: one of them is there twice")
        return tuple(value)

    def table(self) -> Table:
        self.only(OF_TABLE)
        grain = self.text("grain")
        if grain not in GRAINS:
            raise self.error(
                f"config.meta.grain is {grain or None!r}; expected one of {', '.join(GRAINS)}"
            )
        key = self.texts("key")
        columns = tuple(self._columns(key))
        of = {column.name: column for column in columns}
        if not key:
            raise self.error("config.meta.key is missing; expected the columns that name a row")
        for name in key:
            if name not in of:
                raise self.error(f"key has {name!r}; expected any of {', '.join(of)}")
            if of[name].may_be_absent:
                raise self.error(f"column {name}: is of the key, so that it cannot be nullable")
            if of[name].type.to_sql or of[name].type.sql == "double precision":
                raise self.error(f"column {name}: a {of[name].type.sql} cannot be of the key")
        event_time = self._refers("event_time", of, "event", "instant") or None
        if grain == "event" and event_time is None:
            raise self.error("config.meta.event_time is missing; an event says when it happened")
        if event_time and of[event_time].may_be_absent:
            raise self.error(f"column {event_time}: is the event time, so it cannot be nullable")
        for column in columns:
            earlier = column.not_before
            if earlier and (earlier not in of or of[earlier].type is not column.type):
                raise self.error(
                    f"column {column.name}: not_before is {earlier!r}; expected another column of "
                    "its type, an instant"
                )
        since = self._refers("since", of, "state", "date") or None
        return Table(
            self.name, grain, self.text("description", self.entry), columns, key, event_time, since
        )

    def _refers(self, key: str, of: dict[str, Column], grain: str, kind: str) -> str:
        """A column of the given type that tables of one grain may name."""
        name = self.text(key)
        if name and self.meta.get("grain") != grain:
            raise self.error(f"{key} is {name!r}; expected it for the grain {grain} alone")
        if name and (name not in of or of[name].type.name != kind):
            right = [column.name for column in of.values() if column.type.name == kind]
            raise self.error(
                f"{key} is {name!r}; expected a column that is a {kind} ({', '.join(right)})"
            )
        return name

    def _columns(self, key: tuple[str, ...]) -> Iterator[Column]:
        entries = self.entry.get("columns")
        if not isinstance(entries, list) or not entries:
            raise self.error(f"columns is {entries!r}; expected a list of columns")
        seen: set[str] = set()
        for entry in entries:
            column = _Entry(self.where, entry, "a column").column(key)
            if column.name in seen:
                raise self.error(f"column {column.name} is declared twice; leave one")
            seen.add(column.name)
            yield column

    def column(self, key: tuple[str, ...]) -> Column:
        self.only(OF_COLUMN)
        if self.name in RESERVED:
            raise self.error(f"the name is taken: every raw table has {', '.join(BOOKKEEPING)}")
        named, unsigned = self.text("data_type", self.entry), self.flag("unsigned")
        kind = of_sql(named, unsigned=unsigned)
        if kind is None:
            what = "a number for `unsigned`" if of_sql(named) else f"one of {ALLOWED}"
            raise self.error(f"data_type is {named or None!r}; expected {what}")
        entity, values = self.text("entity"), self.texts("values")
        if entity and not NAME.fullmatch(entity):
            raise self.error(f"entity is {entity!r}; expected small letters, digits and _")
        if entity and kind.sql not in ("text", "bigint", "uuid"):
            raise self.error(f"a join key is a {kind.sql}; expected text, bigint or uuid")
        is_id = kind is TEXT and bool(entity or self.name in key)
        if values:
            wrong = [value for value in values if not re.fullmatch(TEXT.pattern, value)]
            if kind is not TEXT or wrong:
                raise self.error(f"values is {list(values)!r}; expected texts of a text column")
            kind = choice(values)
        elif entity and kind is TEXT:
            kind = entity_id(entity)
        nullable, optional = self.flag("nullable"), self.flag("optional")
        not_before = self.text("not_before")
        if not_before and kind.name != "instant":
            raise self.error(f"not_before is for instants; the column is a {kind.sql}")
        meaning = self.text("description", self.entry)
        return Column(
            self.name, kind, meaning, self.text("unit"), nullable, optional, not_before, entity,
            values, is_id,
        )  # fmt: skip
