"""Whether a drop, as its files are now, has been loaded: for who would otherwise load it again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from data.contract import TABLES
from data.database import Database


def last_load(folder: Path, settings: Database | None = None) -> int | None:
    """The newest load of the drop `folder`, if it was of these very files; otherwise None.

    Reads the files whole. None is no proof that a load would change something: a repetition of
    known rows leaves no record.
    """
    there = {table.name: folder / table.file for table in TABLES}
    there = {name: file for name, file in there.items() if file.exists()}
    with (settings or Database()).connect() as connection:
        # The date at midnight UTC, which every session of ours is in.
        loads = connection.execute(
            "select distinct on (table_name) table_name, sha256, load_id from raw.loads"
            " where as_of = %s::date order by table_name, load_id desc",
            [folder.name],
        ).fetchall()
    known = {name: sha256 for name, sha256, _ in loads}
    if not there or there.keys() != known.keys():
        return None
    if any(_sha256(file) != known[name] for name, file in there.items()):
        return None
    return max(load for _, _, load in loads)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
