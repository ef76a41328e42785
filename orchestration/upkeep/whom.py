"""Whom a command of upkeep is about: an entity of the published definitions, and ids of it."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path

from streamflow_feast.dbt.manifest import EntityModel, Manifest


class EraseError(ValueError):
    """Nothing was erased; the text says why."""


@dataclass(frozen=True)
class Entity:
    """An entity as everything here names it: join keys, and for each the entity of that key alone,
    both in the order of these (`parts`), in which hashes are made."""

    name: str
    keys: tuple[str, ...]
    kinds: tuple[str, ...]
    parts: tuple[str, ...]

    @property
    def listed_as(self) -> str:
        return ",".join(self.parts)


Ids = list[tuple[str, ...]]  # the join keys' texts of each one


def entities(manifest: Manifest) -> dict[str, Entity]:
    """The entities of the published definitions, by name."""
    alone = {next(iter(e.keys)): e.name for e in manifest.entities if len(e.keys) == 1}

    def one(model: EntityModel) -> Entity:
        ordered = sorted((alone.get(key, key), key) for key in model.keys)
        keys = tuple(key for _, key in ordered)
        kinds = tuple(model.keys[key] for key in keys)
        return Entity(model.name, keys, kinds, tuple(part for part, _ in ordered))

    return {model.name: one(model) for model in manifest.entities}


def read_ids(entity: Entity, one: str | None, file: Path | None) -> Ids:
    """The ids given: one, as it is or as a JSON object of the join keys; or a file of them.

    Raises:
        EraseError: they cannot be ids of the entity; it names file, line and value.
    """
    found: Ids = []
    if one is not None:
        found.append(_keys(entity, one, "the id"))
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise EraseError(f"{file} cannot be read: {error}. Nothing was erased") from None
        if len(entity.keys) > 1:
            rows = csv.DictReader(lines)
            if set(rows.fieldnames or ()) != set(entity.keys):
                raise EraseError(
                    f"{file}: line 1 is {lines[0] if lines else ''!r}; expected a header of "
                    f"{','.join(entity.keys)}. Nothing was erased"
                )
            found += [tuple(str(row[key]) for key in entity.keys) for row in rows]
        else:
            found += [
                _keys(entity, line, f"{file}, line {number},")
                for number, line in enumerate(lines, start=1)
                if line.strip()
            ]
        if not found:
            raise EraseError(f"{file} holds no id. Nothing was erased")
    return list(dict.fromkeys(found))


def _keys(entity: Entity, text: str, where: str) -> tuple[str, ...]:
    values: tuple[str, ...] = (text,)
    if len(entity.keys) > 1:
        try:
            given = json.loads(text)
            values = tuple(str(given[key]) for key in entity.keys)
        except (ValueError, KeyError, TypeError):
            example = json.dumps(dict.fromkeys(entity.keys, "..."))
            raise EraseError(
                f"{where} is {text!r}; expected {example}. Nothing was erased"
            ) from None
    for value, kind in zip(values, entity.kinds, strict=True):
        expected = {
            "bigint": r"-?\d{1,19}",
            "uuid": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
        }
        if not re.fullmatch(expected.get(kind, r"\S(.*\S)?"), value):
            raise EraseError(f"{where} is {value!r}; expected a {kind}. Nothing was erased")
    return values
