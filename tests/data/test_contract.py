"""The contract is what the database, the documents and the real drops say."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from data.__main__ import main
from data.contract import dbt_docs, declared
from data.database import Database
from data.postgres.raw_tables import BOOKKEEPING
from data.postgres.setup import set_up
from tests.data.drops import HEADERS, USERS, everything
from tests.data.test_load import FEB, JAN, REAL, Drop

ROOT = Path(__file__).resolve().parents[2]


def columns(settings: Database) -> set[tuple[str, str, str, bool]]:
    with settings.connect() as connection:
        return set(
            connection.execute(
                """select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull
                from pg_attribute as a join pg_class as c on c.oid = a.attrelid
                where c.relnamespace = 'raw'::regnamespace and c.relkind = 'r' and a.attnum > 0"""
            ).fetchall()
        )


def test_raw_tables_follow_the_contract(database: Database) -> None:
    expected = {
        (table.name, column.name, column.type.sql, not column.nullable)
        for table in declared()
        for column in table.columns
    }
    found = columns(database)
    assert expected <= found
    own = ("loads", "erasures", "erased", "erasure_salt")  # hold no drop's rows
    extra = {name for table, name, *_ in found - expected if table not in own}
    assert extra == set(BOOKKEEPING)


def test_set_up_again_changes_nothing_and_two_at_once_agree(database: Database) -> None:
    before = columns(database)
    admin = database.model_copy(update={"database": "postgres"})
    other = database.model_copy(update={"database": "set_up_twice"})
    with psycopg.connect(admin.conninfo(), autocommit=True) as connection:
        connection.execute("create database set_up_twice")
        try:
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(set_up, [other, database] * 4))
            assert columns(other) == before == columns(database)
        finally:
            connection.execute("drop database set_up_twice with (force)")


def test_set_up_does_not_wait_for_a_load(database: Database) -> None:
    """`make up` while a load runs must not hang."""
    with database.connect() as loading:
        loading.execute("lock table raw.usage in row exclusive mode")
        waiting = database.model_copy()
        with waiting.connect() as connection:
            connection.execute(
                sql.SQL("alter database {} set lock_timeout = '2s'").format(
                    sql.Identifier(database.database)
                )
            )
        set_up(database)


def test_the_contract_is_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contract"]) == 0
    printed = capsys.readouterr().out
    for table in declared():
        section = printed.split(f"### {table.file}")[1].split("###")[0]
        rows = [line.split(" | ")[0].lstrip("| ") for line in section.splitlines() if "|" in line]
        assert rows[2:] == [column.name for column in table.columns]


def test_real_drops_have_the_contracts_columns() -> None:
    if not REAL.exists():
        pytest.skip(f"the real StreamFlow drops are not at {REAL}: NOT TESTED against real data")
    for path in REAL.glob("*/*.csv"):
        assert path.open().readline().strip().split(",") == HEADERS[path.stem].split(",")


def test_commands_say_what_they_did(
    database: Database, drop: Drop, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(drop(JAN, users=USERS, labels=["a,true"]))
    empty = everything(database)
    assert main(["check", folder]) == 0
    assert main(["check", folder, str(drop(FEB, labels=["a,maybe"]))]) == 1
    assert everything(database) == empty
    assert main(["load", folder]) == 0
    report = capsys.readouterr().out.splitlines()[-4:]
    assert [line.split() for line in report] == [
        ["2024-01-31", "read", "added", "replaced", "repeated", "retracted"],
        ["users", "2", "2", "0", "0", "0"],
        ["labels", "1", "1", "0", "0", "0"],
        ["load", "1"],
    ]
    assert main(["load", folder]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing changed"
    assert main(["load", str(drop(JAN, labels=["a,maybe"]))]) == 1
    captured = capsys.readouterr()
    assert not captured.out
    assert "line 2, churn_label: 'maybe'" in captured.err


def test_a_server_that_is_not_there_is_said_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], drop: Drop
) -> None:
    monkeypatch.setenv("STREAMFLOW_PG_PORT", "1")
    assert main(["load", str(drop(JAN, users=USERS))]) == 1
    assert "make up" in capsys.readouterr().err


def test_dbt_has_the_meanings_and_units_from_the_contract(sample: Database) -> None:
    written = ROOT / "dbt_project" / "models" / "staging" / "contract.md"
    there, now = (
        text.split("\n\n") for text in (written.read_text().strip(), dbt_docs(declared()))
    )
    # A table that no model refers to need not be there.
    assert set(there) <= set(map(str.strip, now)), f"python -m data contract --dbt > {written}"
    manifest = json.loads((Path(os.environ["DBT_TARGET_PATH"]) / "manifest.json").read_text())
    referring = set()
    for node in manifest["nodes"].values():
        for column in node["columns"].values():
            for block in column.get("doc_blocks") or []:
                table, _, name = block.rpartition(".")[2].partition("__")
                if name:
                    referring.add((node["name"], name))
                    (source,) = [t for t in declared() if t.name == table]
                    unit = column["config"]["meta"].get("unit", source.column(name).unit)
                    assert unit == source.column(name).unit, (node["name"], name)
    assert ("churn_labels", "churn_label") in referring
    assert ("subscription_features", "monthly_fee") in referring
