"""The list of who was erased, kept in a file beside the database as well: hashes, and no id.

A backup that is older than an erasure holds the erased again, and does not know it. With this file
a restore does, and `make erase AGAIN=1` takes them out.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import psycopg

NAME = "erased.json"


def keep_list(connection: psycopg.Connection, folder: Path) -> None:
    """Write the list as the database has it."""
    row = connection.execute(
        "select encode(salt, 'hex'), (select coalesce(jsonb_agg(jsonb_build_array(entity,"
        " encode(hash, 'hex')) order by entity, hash), '[]') from raw.erased)"
        " from raw.erasure_salt"
    ).fetchone()
    assert row is not None
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{NAME}.{os.getpid()}"
    scratch.touch(mode=0o600)
    scratch.write_text(json.dumps({"salt": row[0], "erased": row[1]}, indent=1) + "\n")
    scratch.replace(folder / NAME)


def merge_list(connection: psycopg.Connection, folder: Path) -> int:
    """Put onto the database's list who is on the file's alone; how many that were. A file of
    another database (its hashes have another salt) says nothing about this one."""
    file = folder / NAME
    if not file.exists():
        return 0
    kept = json.loads(file.read_text())
    salt = connection.execute("select encode(salt, 'hex') from raw.erasure_salt").fetchone()
    if salt != (kept["salt"],):
        return 0
    known = set(connection.execute("select entity, encode(hash, 'hex') from raw.erased"))
    new = [one for one in map(tuple, kept["erased"]) if one not in known]
    for entity in sorted({entity for entity, _ in new}):
        hashes = [digest for of, digest in new if of == entity]
        connection.execute(
            "with restored as (insert into raw.erasures (entity, asked_for, found, code_version)"
            " values (%s, %s, '{}', 'after a restore') returning erasure_id, entity)"
            " insert into raw.erased select entity, decode(digest, 'hex'), erasure_id"
            " from restored cross join unnest(%s::text[]) as digest",
            [entity, len(hashes), hashes],
        )
    return len(new)
