"""Take who was erased out of files: CSV and Parquet row by row, training sets with their manifest.

A file is replaced in one piece, and only where it holds somebody. Rows are told by columns named
like the join keys. What has no such column (the loader's refused rows, reports, manifests) is
searched for the ids given, as whole words.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import hmac
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestration.upkeep.whom import Ids
from streamflow_feast.training import files as training_files
from streamflow_feast.training.training_set import counts, instant_of

TEXTS = (".json", ".jsonl", ".html", ".txt", ".md", ".log", ".yml")
SHORTEST = 4  # characters of an id that is looked for as a word of a text
PLACE = "(erased)"
HASHED = "__keys_hashed"  # of the feature logs: their join keys are pseudonyms


@dataclass(frozen=True)
class Erased:
    """The list. `hashes` are join keys -> the entity's name on it, and its hashes."""

    salt: bytes
    hashes: Mapping[tuple[str, ...], tuple[str, set[bytes]]]
    ids: Mapping[tuple[str, ...], Ids] = field(default_factory=dict)  # join keys -> those given
    pseudonyms: Mapping[tuple[str, ...], set[tuple[str, ...]]] = field(default_factory=dict)
    _known: dict[tuple[str, tuple[str, ...]], bool] = field(default_factory=dict, repr=False)

    def has(self, entity: str, hashes: set[bytes], keys: tuple[str, ...]) -> bool:
        """Whether one with these keys is on the list. As raw.hash_of in the database."""
        asked = entity, keys
        if asked not in self._known:
            text = "\x1f".join((entity, *keys)).encode()
            self._known[asked] = hashlib.sha256(self.salt + text).digest() in hashes
        return self._known[asked]

    def any_of(self, row: Mapping[str, Any]) -> bool:
        """Whether a row, or an entity's keys, is of somebody on the list."""
        if row.get(HASHED):
            return self.has_pseudonym(row)
        return any(
            all(row.get(key) is not None for key in keys)
            and self.has(entity, hashes, tuple(str(row[key]) for key in keys))
            for keys, (entity, hashes) in self.hashes.items()
        )

    def has_pseudonym(self, row: Mapping[str, Any]) -> bool:
        """Whether the keys of a row of the feature logs are those of an id given, hashed."""
        return any(
            tuple(row.get(key) for key in keys) in of for keys, of in self.pseudonyms.items()
        )

    def keys_in(self, columns: Sequence[str]) -> list[str]:
        """The join keys among the columns of a file, of entities that all keys are there of."""
        return sorted({key for keys in self.hashes if set(keys) <= set(columns) for key in keys})


def rewrite(
    folder: Path, erased: Erased, ids: Sequence[tuple[str, ...]] = ()
) -> Iterator[tuple[Path, int]]:
    """Take them out of every file below `folder`; (file, rows or words) of each that is changed.

    Raises:
        OSError: a file cannot be read or replaced; what came before it is done.
    """
    words = _words(ids)
    for file, described in _sets(folder):
        yield from _set(file, described, erased)
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        rows = 0
        if file.suffix == ".parquet":
            rows = _parquet(file, erased, folder)
        elif file.name.endswith((".csv", ".csv.gz")):
            rows = _csv(file, erased, words)
        elif file.suffix in TEXTS:
            rows = _text(file, words)
        if rows:
            yield file, rows


def _words(ids: Sequence[tuple[str, ...]]) -> re.Pattern[str] | None:
    """What finds an id as a whole word; a pair of keys names somebody only together."""
    ones = [keys[0] for keys in ids if len(keys) == 1]
    alone = [one for one in ones if len(one) >= SHORTEST and not one.isdigit()]
    if not alone:
        return None
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, alone))})(?![\w-])")


def _replace(file: Path, write: Any) -> None:
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as out:
            write(out)
            out.flush()
            os.fsync(out.fileno())
        scratch.chmod(file.stat().st_mode & 0o777)
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)


def _parquet(file: Path, erased: Erased, folder: Path) -> int:
    source = pq.ParquetFile(file)
    keys = erased.keys_in(source.schema_arrow.names)
    if not keys:
        return 0
    if HASHED in source.schema_arrow.names:
        erased, keys = with_pseudonyms(erased, _salt(file, folder)), [*keys, HASHED]
    kept = [_kept(group, keys, erased) for group in _groups(source, keys)]
    rows = sum(len(mask) - sum(mask) for mask in kept)
    if not rows:
        return 0
    codec = source.metadata.row_group(0).column(0).compression

    def write(out: IO[bytes]) -> None:
        with pq.ParquetWriter(out, source.schema_arrow, compression=codec) as writer:
            for number, mask in enumerate(kept):
                writer.write_table(source.read_row_group(number).filter(pa.array(mask)))

    _replace(file, write)
    return rows


def with_pseudonyms(erased: Erased, salt: bytes | None) -> Erased:
    """The list with what the feature logs (serving) have instead of keys: HMAC-SHA256, by the salt
    of their folder. Only an id that is given can be found by it."""
    if salt is None:
        return erased
    made = {
        keys: {
            tuple(hmac.new(salt, one.encode(), hashlib.sha256).hexdigest() for one in values)
            for values in of
        }
        for keys, of in erased.ids.items()
    }
    return replace(erased, pseudonyms=made)


def _salt(file: Path, folder: Path) -> bytes | None:
    """STREAMFLOW_API_LOG_SALT, as the API that wrote the logs had it, or their folder's own."""
    if given := os.environ.get("STREAMFLOW_API_LOG_SALT"):
        return given.encode()
    above = [parent for parent in file.parents if parent.is_relative_to(folder)]
    found = next((parent / ".salt" for parent in above if (parent / ".salt").exists()), None)
    return found.read_text().strip().encode() if found else None


def _groups(source: pq.ParquetFile, keys: list[str]) -> Iterator[pa.Table]:
    for number in range(source.num_row_groups):
        yield source.read_row_group(number, columns=keys)


def _kept(group: pa.Table, keys: list[str], erased: Erased) -> list[bool]:
    columns = [group.column(key).to_pylist() for key in keys]
    return [
        not erased.any_of(dict(zip(keys, row, strict=True))) for row in zip(*columns, strict=True)
    ]


class _Lines:
    """The lines of a text, and the text of those that a CSV reader took since it was asked."""

    def __init__(self, file: IO[str]) -> None:
        self.file, self.taken = file, [""][:0]

    def __iter__(self) -> Iterator[str]:
        for line in self.file:
            self.taken.append(line)
            yield line

    def record(self) -> str:
        text = "".join(self.taken)
        self.taken.clear()
        return text


def _csv(file: Path, erased: Erased, words: re.Pattern[str] | None) -> int:
    """The other records stay as they are, byte by byte."""
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8", errors="surrogateescape", newline="") as source:
        lines = _Lines(source)
        reader = csv.reader(iter(lines))
        header = next(reader, [])
        kept, rows = [lines.record()], 0
        keyed = bool(erased.keys_in(header))
        for record in reader:
            text = lines.record()
            if keyed and len(record) == len(header):
                gone = erased.any_of(dict(zip(header, record, strict=True)))
                changed = words.sub(PLACE, text) if words else text
            else:
                changed, gone = text, words is not None and words.search(text) is not None
            rows += gone or changed != text
            if not gone:
                kept.append(changed)
    if rows:
        raw = "".join(kept).encode("utf-8", "surrogateescape")
        _replace(file, lambda out: out.write(gzip.compress(raw) if file.suffix == ".gz" else raw))
    return rows


def _text(file: Path, words: re.Pattern[str] | None) -> int:
    if words is None:
        return 0
    text = file.read_text(encoding="utf-8", errors="surrogateescape")
    changed, count = words.subn(PLACE, text)
    if count:
        raw = changed.encode("utf-8", "surrogateescape")
        _replace(file, lambda out: out.write(raw))
    return count


def _sets(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The manifests of training sets below a folder, with what they say."""
    for file in sorted(folder.rglob("*.json")):
        try:
            described = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if isinstance(described, dict) and isinstance(described.get("files"), dict):
            yield file, described


def _set(file: Path, described: dict[str, Any], erased: Erased) -> Iterator[tuple[Path, int]]:
    """The files of one training set. Its manifest says meanwhile that it is being rewritten, so
    that a run after one that was cut off goes on."""
    parts = [file.with_name(name) for name in described["files"]]
    parts = [part for part in parts if part.exists()]
    if not (described.get("erasing") or any(_holds(part, erased) for part in parts)):
        return
    _write_json(file, described | {"erasing": True})
    for part in parts:
        if part.suffix == ".parquet":
            table = pq.read_table(part)
            keys = erased.keys_in(table.column_names)
            kept = table.filter(pa.array(_kept(table, keys, erased), pa.bool_()))
            whole = kept.combine_chunks().replace_schema_metadata(None)
            _replace(part, lambda out, whole=whole: training_files.write_parquet(whole, out))
            described |= {
                "rows": kept.num_rows,
                "nulls": {name: kept.column(name).null_count for name in kept.column_names},
                "snapshots": {
                    name: counts(kept, kept, instant_of(name)) | {"left_out": told["left_out"]}
                    for name, told in described["snapshots"].items()
                },
            }
            rows = table.num_rows - kept.num_rows
        else:
            rows = _csv(part, erased, None)
        yield part, rows
        described["files"][part.name] = {
            "bytes": part.stat().st_size, "sha256": training_files.sha256(part),
        }  # fmt: skip
    described.pop("erasing", None)
    _write_json(file, described | {"rows_were_erased": True})
    yield file, 0


def _holds(file: Path, erased: Erased) -> bool:
    if file.suffix == ".parquet":
        source = pq.ParquetFile(file)
        keys = erased.keys_in(source.schema_arrow.names)
        return bool(keys) and not all(all(_kept(g, keys, erased)) for g in _groups(source, keys))
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as opened:
        return any(map(erased.any_of, csv.DictReader(opened)))


def _write_json(file: Path, content: dict[str, Any]) -> None:
    raw = (json.dumps(content, indent=2) + "\n").encode()
    _replace(file, lambda out: out.write(raw))
