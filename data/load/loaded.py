"""Whether a drop, as its files are now, has been loaded: for who would otherwise load it again."""

from __future__ import annotations

from pathlib import Path

from data.database import Database
from data.load.check import DropError, Report
from data.load.drop import find_drop
from data.load.read import scan


def last_load(folder: Path, settings: Database | None = None) -> int | None:
    """The newest load of the drop `folder`, if it was of these very files; otherwise None.

    Reads the files whole. None is no proof that a load would change something: a repetition of
    known rows leaves no record.
    """
    try:
        there = find_drop(folder).files
    except DropError:
        return None
    with (settings or Database()).connect() as connection:
        # The date at midnight UTC, which every session of ours is in.
        loads = connection.execute(
            "select distinct on (table_name) table_name, sha256, load_id from raw.loads"
            " where as_of = %s::date and sha256 <> '' order by table_name, load_id desc",
            [folder.name],
        ).fetchall()
    known = {name: sha256 for name, sha256, _ in loads}
    if not there or there.keys() != known.keys():
        return None
    if any(scan(file, Report(file.name)).sha256 != known[name] for name, file in there.items()):
        return None
    return max(load for _, _, load in loads)
