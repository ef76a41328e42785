"""A table as CSV, parquet and a manifest, the same bytes for the same table."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

ROWS = 1 << 16  # a row group; a block of CSV


def write(table: pa.Table, manifest: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """Write `name`.csv, .parquet and .json (the manifest with size and sha256 of the others).

    Each is replaced in one piece. The manifest goes first and comes back last: data files without
    it are those of a write that was cut off.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Where COPY's blocks happened to end must not show in the files.
    table = table.combine_chunks().replace_schema_metadata(None)
    files = [folder / f"{name}.{ending}" for ending in ("csv", "parquet", "json")]
    scratch = [file.with_name(f".{file.name}.{os.getpid()}") for file in files]
    try:
        _write_csv(table, scratch[0])
        write_parquet(table, scratch[1])
        described = manifest | {
            "files": {
                file.name: {"bytes": temporary.stat().st_size, "sha256": sha256(temporary)}
                for file, temporary in zip(files[:2], scratch[:2], strict=True)
            },
            "pyarrow": pa.__version__,
        }
        scratch[2].write_text(json.dumps(described, indent=2) + "\n")
        files[2].unlink(missing_ok=True)
        for temporary, file in zip(scratch, files, strict=True):
            temporary.replace(file)
    finally:
        for temporary in scratch:
            temporary.unlink(missing_ok=True)
    return files


def sha256(file: Path) -> str:
    """Hexadecimal digest of a file's bytes."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_parquet(table: pa.Table, file: Path) -> None:
    """The same bytes for the same table, if it is one chunk without metadata."""
    pa.parquet.write_table(
        table,
        file,
        row_group_size=ROWS,
        version="2.6",
        compression="zstd",
        compression_level=3,
        data_page_version="1.0",
        use_dictionary=[f.name for f in table.schema if pa.types.is_string(f.type)],
    )


def _write_csv(table: pa.Table, file: Path) -> None:
    """Floats as the shortest text that reads back the same, lists as JSON; null is empty."""
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(table.column_names)
        for batch in table.to_batches(max_chunksize=ROWS):
            writer.writerows(zip(*map(_cells, batch.columns), strict=True))


def _cells(column: pa.Array) -> Iterator[object]:
    if pa.types.is_timestamp(column.type):
        encoded = column.dictionary_encode()
        texts = [_text(instant) for instant in encoded.dictionary.to_pylist()]
        return ("" if i is None else texts[i] for i in encoded.indices.to_pylist())
    if pa.types.is_list(column.type):
        return ("" if v is None else json.dumps(v, ensure_ascii=False) for v in column.to_pylist())
    if pa.types.is_binary(column.type):
        return ("" if v is None else "\\x" + v.hex() for v in column.to_pylist())
    return iter(column.to_pylist())


def _text(instant: Any) -> str:
    return str(instant.isoformat().replace("+00:00", "Z"))
