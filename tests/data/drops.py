"""Small drops written by hand, and what the raw tables say about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from psycopg import sql

from data.contract import declared
from data.database import Database

ROOT = Path(__file__).resolve().parents[2]
HEADERS = {table.name: ",".join(column.name for column in table.columns) for table in declared()}
KEYS = {table.name: table.key[0] for table in declared()}
USERS = ["a,2024-01-01,,,,", "b,2024-01-02,Male,true,False,"]
Rows = list[tuple[Any, ...]]


def write_drop(parent: Path, day: str, **files: list[str] | bytes) -> Path:
    """A drop folder; a list of lines gets the contract's header, bytes are written as they are."""
    folder = parent / day
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for table, content in files.items():
        if not isinstance(content, bytes):
            content = "".join(f"{line}\n" for line in [HEADERS[table], *content]).encode()
        (folder / f"{table}.csv").write_bytes(content)
    return folder


def effective(settings: Database, table: str, horizon: int | None = None) -> Rows:
    """Rows in effect as (columns of the file, drop's date), as seen right after load `horizon`."""
    with settings.connect() as connection:
        return connection.execute(
            sql.SQL(
                """select {columns}, as_of::date::text from {raw}
                where load_id <= {horizon}
                    and (superseded_by is null or superseded_by > {horizon})
                order by {key}, as_of"""
            ).format(
                columns=sql.SQL(", ").join(map(sql.Identifier, HEADERS[table].split(","))),
                raw=sql.Identifier("raw", table),
                key=sql.Identifier(KEYS[table]),
                horizon=2**62 if horizon is None else horizon,
            )
        ).fetchall()


def everything(settings: Database) -> dict[str, Rows]:
    """All rows of all raw tables and of the ledger of loads."""
    with settings.connect() as connection:
        return {
            name: connection.execute(
                sql.SQL("select * from {} as r order by r::text").format(
                    sql.Identifier("raw", name)
                )
            ).fetchall()
            for name in [*HEADERS, "loads"]
        }
