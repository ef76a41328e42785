"""Take one of an entity out of everything that is kept here: `make erase USER=<id>`.

In one transaction of the database: its hash onto the list of whom the loader refuses, and its rows
out of raw tables, staging, every version, and online. Then out of Redis, where that is a store, and
out of files: training sets, what the loader refused, logs of served features, drops if asked. What
was cut off in between is ended by the same command. The record (raw.erasures) has counts and salted
hashes, and no id. With no id given, everybody on the list is looked for once more: after a restore.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg
from psycopg import sql

from data.contract import declared
from data.database import Database
from data.errors import command
from data.load.erased import places
from data.load.load import LOAD_LOCK
from data.paths import DROPS, FEATURE_REPO, PROCESSED, code_version
from orchestration.steps import say
from orchestration.upkeep.erase_files import Erased, rewrite
from orchestration.upkeep.erased_list import keep_list
from orchestration.upkeep.waiting import BUILD_LOCK, wait_for_build
from orchestration.upkeep.whom import Entity, EraseError, Ids, entities, read_ids
from streamflow_feast.dbt.manifest import read_manifest
from streamflow_feast.dbt.publications import published_manifest
from streamflow_feast.online.tables import LOCK as ONLINE_LOCK

SCHEMAS = ("staging", "features", "online")


@dataclass
class Outcome:
    """Where -> rows (or keys, or files) taken out, of everybody who was asked for."""

    erasure: int | None = None
    found: Counter[str] = field(default_factory=Counter)
    tables: list[tuple[str, str]] = field(default_factory=list)


def erase(
    entity: Entity,
    ids: Ids,
    *,
    known: Mapping[str, Entity],
    folders: Sequence[Path] = (PROCESSED,),
    tables: Sequence[str] = (),
    redis: Path | None = None,
) -> Outcome:
    """Take these out of everything; with no ids, everybody of any entity who is on the list.

    Args:
        known: the entities there are, by name.
        folders: where files with their rows lie.
        tables: further tables of the database, as schema.table.
        redis: the feature store of a Redis that holds features.
    """
    settings = Database()
    with settings.connect(application_name="streamflow erase") as connection:
        outcome = _from_database(connection, entity, ids, known, tables)
    with settings.connect(application_name="streamflow erase") as connection:
        connection.autocommit = True
        for schema, name in outcome.tables:  # the rows themselves, and the planner's samples of ids
            relation = sql.Identifier(schema, name)
            connection.execute(sql.SQL("vacuum (analyze) {}").format(relation))
        erased = replace(_listed(connection, known), ids={entity.keys: ids})
    if redis is not None:
        from streamflow_feast.redis.eraser import erase_keys

        outcome.found["redis"] = erase_keys(redis, erased.any_of)
    for folder in folders:
        for file, rows in rewrite(folder, erased, ids):
            outcome.found[f"{folder.name}/{file.relative_to(folder)}"] += rows
    with settings.connect() as connection:
        _end(connection, outcome)
        keep_list(connection, folders[0])
    return outcome


def _from_database(
    connection: psycopg.Connection,
    entity: Entity,
    ids: Ids,
    known: Mapping[str, Entity],
    tables: Sequence[str],
) -> Outcome:
    """All of it in the transaction that is open. Loads, builds and what brings rows online wait."""
    outcome = Outcome()
    connection.execute("select pg_advisory_xact_lock(%s)", [LOAD_LOCK])
    connection.execute(BUILD_LOCK)
    wait_for_build(
        connection, EraseError("a dbt build is still running; nothing was erased. Run this again")
    )
    connection.execute(ONLINE_LOCK)
    if ids:
        outcome.erasure = _note(connection, entity, ids)
    chosen = [entity] if ids else list(known.values())
    for one in chosen:
        values = sql.SQL(", ").join(
            sql.SQL("{} text not null").format(sql.Identifier(key)) for key in one.keys
        )
        connection.execute(sql.SQL("create temp table erasing ({})").format(values))
        with connection.cursor().copy("copy erasing from stdin") as copy:
            for keys in ids:
                copy.write_row(keys)
        there = _tables(connection, one, tables)
        if not ids:
            _find_listed(connection, one, there)
        connection.execute("analyze erasing")
        for table in declared():
            for place in places(table, one.parts):
                relation = sql.Identifier("raw", table.name)
                who = _who(one, [column.type.sql for column in place.columns],
                           [column.name for column in place.columns])  # fmt: skip
                rows = connection.execute(place.forget(relation, who)).rowcount
                outcome.found[f"raw.{table.name}"] += rows
                outcome.tables.append(("raw", table.name))
        for (schema, name), kinds in there.items():
            rows = connection.execute(
                sql.SQL("delete from {} as r using ({}) as who where ({}) = ({})").format(
                    sql.Identifier(schema, name),
                    _who(one, kinds, one.keys),
                    sql.SQL(", ").join(sql.Identifier("r", key) for key in one.keys),
                    sql.SQL(", ").join(sql.Identifier("who", key) for key in one.keys),
                )
            ).rowcount
            outcome.found[f"{schema}.{name}"] += rows
            outcome.tables.append((schema, name))
        # What a failed test has said may name one.
        outcome.found["ledger.tests"] += connection.execute(
            sql.SQL(
                "update ledger.tests set message = '(erased)' where exists (select from erasing"
                " where strpos(message, {}) > 0)"
            ).format(sql.Identifier(one.keys[0]))
        ).rowcount
        connection.execute("drop table erasing")
    if outcome.erasure is not None:
        _add(connection, outcome)
    outcome.tables = list(dict.fromkeys([*outcome.tables, ("ledger", "tests")]))
    return outcome


def _who(entity: Entity, kinds: Sequence[str], names: Sequence[str]) -> sql.Composed:
    """A query of who is to be erased, in the types and under the names of some table's columns."""
    columns = [
        sql.SQL("{}::{} as {}").format(sql.Identifier(key), sql.SQL(kind), sql.Identifier(name))
        for key, kind, name in zip(entity.keys, kinds, names, strict=True)
    ]
    return sql.SQL("select {} from erasing").format(sql.SQL(", ").join(columns))


def _note(connection: psycopg.Connection, entity: Entity, ids: Ids) -> int:
    """The hashes onto the list, and the number of the erasure: of the one that was cut off, where
    this is the same."""
    with connection.cursor() as cursor:
        hashes = [
            cursor.execute("select raw.hash_of(%s, variadic %s)", [entity.listed_as, list(keys)])
            .fetchone()[0]  # type: ignore[index]
            for keys in ids
        ]  # fmt: skip
    open_one = connection.execute(
        "select erasure_id from raw.erasures join raw.erased using (erasure_id, entity)"
        " where ended_at is null and entity = %s and hash = any(%s) limit 1",
        [entity.listed_as, hashes],
    ).fetchone()
    row = (
        open_one
        or connection.execute(
            "insert into raw.erasures (entity, asked_for, found, code_version)"
            " values (%s, %s, '{}', %s) returning erasure_id",
            [entity.listed_as, len(ids), code_version()],
        ).fetchone()
    )
    assert row is not None
    connection.cursor().executemany(
        "insert into raw.erased values (%s, %s, %s) on conflict do nothing",
        [(entity.listed_as, one, row[0]) for one in hashes],
    )
    return int(row[0])


def _add(connection: psycopg.Connection, outcome: Outcome) -> None:
    """What was taken out to what the erasure's row says already."""
    row = connection.execute(
        "select found from raw.erasures where erasure_id = %s", [outcome.erasure]
    ).fetchone()
    assert row is not None
    found: Counter[str] = Counter(row[0])
    found.update({place: rows for place, rows in outcome.found.items() if "/" not in place})
    connection.execute(
        "update raw.erasures set found = %s where erasure_id = %s",
        [json.dumps({place: rows for place, rows in found.items() if rows}), outcome.erasure],
    )


def _end(connection: psycopg.Connection, outcome: Outcome) -> None:
    files = {"files": sum(rows for place, rows in outcome.found.items() if "/" in place),
             "redis": outcome.found["redis"]}  # fmt: skip
    which = sql.SQL("erasure_id = %(id)s" if outcome.erasure else "ended_at is null")
    connection.execute(
        sql.SQL(
            "update raw.erasures set ended_at = clock_timestamp(), found = found || %(files)s"
            " where {}"
        ).format(which),
        {"id": outcome.erasure, "files": json.dumps({k: v for k, v in files.items() if v})},
    )


def _tables(
    connection: psycopg.Connection, entity: Entity, more: Sequence[str]
) -> dict[tuple[str, str], list[str]]:
    """(schema, table) with all join keys as columns -> their types."""
    rows = connection.execute(
        "select nspname, relname, array_agg(attname::text), array_agg(format_type(atttypid, null))"
        " from pg_attribute join pg_class on pg_class.oid = attrelid"
        " join pg_namespace on pg_namespace.oid = relnamespace"
        " where relkind in ('r', 'p') and not relispartition and attname = any(%(keys)s)"
        " and (nspname = any(%(schemas)s) or nspname || '.' || relname = any(%(more)s))"
        " group by nspname, relname having count(*) = %(count)s order by 1, 2",
        {"keys": list(entity.keys), "schemas": list(SCHEMAS), "more": list(more),
         "count": len(entity.keys)},
    ).fetchall()  # fmt: skip
    there: dict[tuple[str, str], list[str]] = {}
    for schema, name, columns, kinds in rows:
        of = dict(zip(columns, kinds, strict=True))
        there[schema, name] = [of[key] for key in entity.keys]
    for name in more:
        if tuple(name.split(".", 1)) not in there:
            raise EraseError(
                f"--table {name}: there is no such table with the column "
                f"{', '.join(entity.keys)}; nothing was erased"
            )
    return there


def _find_listed(
    connection: psycopg.Connection, entity: Entity, there: Mapping[tuple[str, str], list[str]]
) -> None:
    """Into `erasing` who is in any table and on the list."""
    sources = [(relation, list(entity.keys)) for relation in there]
    for table in declared():
        sources += [
            (("raw", table.name), [column.name for column in place.columns])
            for place in places(table, entity.parts)
        ]
    for (schema, name), columns in sources:
        texts = sql.SQL(", ").join(
            sql.SQL("{}::text").format(sql.Identifier(column)) for column in columns
        )
        connection.execute(
            sql.SQL(
                "insert into erasing select * from (select distinct {texts} from {relation})"
                " as there ({keys}) where raw.hash_of({entity}, {keys}) in"
                " (select hash from raw.erased where entity = {entity}) except table erasing"
            ).format(
                texts=texts, relation=sql.Identifier(schema, name),
                entity=sql.Literal(entity.listed_as),
                keys=sql.SQL(", ").join(map(sql.Identifier, entity.keys)),
            )
        )  # fmt: skip


def _listed(connection: psycopg.Connection, known: Mapping[str, Entity]) -> Erased:
    """Who is on the list, for what is not in this database."""
    salt = connection.execute("select salt from raw.erasure_salt").fetchone()
    hashes: dict[str, set[bytes]] = {}
    for entity, one in connection.execute("select entity, hash from raw.erased"):
        hashes.setdefault(entity, set()).add(bytes(one))
    keys = {entity.listed_as: entity.keys for entity in known.values()}
    assert salt is not None
    return Erased(
        bytes(salt[0]), {keys[name]: (name, of) for name, of in hashes.items() if name in keys}
    )


def readmit(entity: Entity, ids: Ids) -> int:
    """Take ids off the list, so that the loader takes their rows again; how many were on it."""
    with Database().connect() as connection:
        taken = sum(
            connection.execute(
                "delete from raw.erased where entity = %s and hash = raw.hash_of(%s, variadic %s)",
                [entity.listed_as, entity.listed_as, list(keys)],
            ).rowcount
            for keys in ids
        )
        keep_list(connection, PROCESSED)
        return taken


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestration erase", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--entity", default="user", help="user, device, ... (user)")
    parser.add_argument("--id", help="whom; of several join keys a JSON object of them")
    parser.add_argument("--file", type=Path, help="ids, one a line; of several keys a CSV")
    parser.add_argument("--again", action="store_true", help="everybody who is on the list")
    parser.add_argument("--also", type=Path, action="append", default=[], help="a folder of files")
    parser.add_argument("--table", action="append", default=[], help="a further schema.table")
    parser.add_argument(
        "--redis", type=Path, default=FEATURE_REPO / "feature_store.redis.yaml",
        help="the feature store of Redis, where the ledger says that one was filled",
    )  # fmt: skip
    parser.add_argument("--drops", action="store_true", help="rewrite the drops in data/drops too")
    parser.add_argument("--readmit", action="store_true", help="let the loader take them again")
    options = parser.parse_args(arguments)
    if (options.id is None and options.file is None) is not options.again:
        raise EraseError(
            "say whom: make erase USER=<id>, or FILE=<file of ids>, or AGAIN=1 for everybody who "
            "is on the list"
        )
    known = entities(published_manifest(Database()) or read_manifest())
    if options.entity not in known:
        raise EraseError(f"there is no entity {options.entity!r}; there are: {', '.join(known)}")
    entity = known[options.entity]
    ids = read_ids(entity, options.id, options.file)
    if options.readmit:
        say(
            f"  {readmit(entity, ids):,} of {len(ids):,} taken off the list; load their drops again"
        )
        return 0
    folders = [PROCESSED, *options.also, *([DROPS] if options.drops else [])]
    outcome = erase(
        entity, ids, known=known, folders=folders, tables=options.table,
        redis=options.redis if _in_redis() else None,
    )  # fmt: skip
    _tell(entity, ids, outcome)
    return 0


def _in_redis() -> bool:
    """Whether features were ever brought into a Redis."""
    with Database().connect() as connection:
        row = connection.execute(
            "select 1 from ledger.materializations where store like 'redis%' limit 1"
        ).fetchone()
    return row is not None


def _tell(entity: Entity, ids: Ids, outcome: Outcome) -> None:
    for place, rows in outcome.found.items():
        if rows:
            say(f"  {place}: {rows:,}")
    total = sum(outcome.found.values())
    if not ids:
        say(f"  everybody on the list was looked for: {total:,} rows were there again")
    elif not total:
        say(
            f"  nothing was here of them. Is the id right? The loader refuses it from now on; to "
            f"undo that: make erase {'USER' if entity.name == 'user' else 'ID'}=... READMIT=1"
        )
    else:
        say(f"  erased {len(ids):,} {entity.name}: {total:,} rows; erasure {outcome.erasure}")
