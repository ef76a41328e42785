# ruff: noqa: E501
"""A declaration that changes over a database that holds rows already."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from data.contract import read
from data.database import Database
from data.load.load import load
from data.postgres.raw_tables import BOOKKEEPING, RawTableError
from data.postgres.setup import set_up
from tests.data.drops import USERS, write_drop

from .test_declaration import COLUMNS, DAY, HEAD, READINGS, columns_with, put, rows


def test_an_existing_database_gets_new_tables_columns_types_and_indexes(
    database: Database, tmp_path: Path
) -> None:
    set_up(database, read(HEAD))
    load(write_drop(tmp_path, DAY, users=USERS), database)
    wider = columns_with("- {name: plan, data_type: text, config: {meta: {nullable: true}}}")
    set_up(database, read(wider + READINGS))
    found = {
        name
        for (name,) in rows(
            database,
            "select attname from pg_attribute where attrelid = 'raw.readings'::regclass and attnum > 0",
        )
    }
    assert found == {*COLUMNS.split(", "), *BOOKKEEPING}
    assert rows(database, "select user_id, plan from raw.users") == [("a", None), ("b", None)]
    with pytest.raises(RawTableError, match=r"raw.users has rows and no column tariff"):
        set_up(database, read(columns_with("- {name: tariff, data_type: text}")))
    looser = READINGS.replace('"numeric(6,2)"', '"numeric(9,3)"')
    set_up(database, read(HEAD + looser))
    kind = "select format_type(atttypid, atttypmod) from pg_attribute where attrelid = 'raw.readings'::regclass and attname = 'price'"
    assert rows(database, kind) == [("numeric(9,3)",)]
    for narrower in ('"numeric(9,2)"', '"numeric(8,3)"', "text"):
        with pytest.raises(RawTableError, match=r"raw.readings.price is numeric\(9,3\), and"):
            set_up(database, read(HEAD + READINGS.replace('"numeric(6,2)"', narrower)))
    assert rows(database, kind) == [("numeric(9,3)",)]


def test_a_table_of_an_earlier_release_loses_its_primary_key_and_keeps_its_rows(
    database: Database, tmp_path: Path
) -> None:
    load(write_drop(tmp_path, DAY, users=USERS), database)
    with database.connect() as connection:
        connection.execute("drop index raw.users_key")
        connection.execute("alter table raw.users add primary key (user_id, as_of, load_id)")
        connection.execute("alter table raw.users alter column loaded_at set not null")
    set_up(database)
    required = "select attname from pg_attribute where attrelid = 'raw.users'::regclass and attnum > 0 and attnotnull order by 1"
    assert rows(database, required) == [("signup_date",), ("user_id",)]
    assert rows(database, "select count(*) from raw.users") == [(2,)]
    with database.connect() as connection, pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute("insert into raw.users select * from raw.users")


def test_a_view_may_stand_for_a_raw_table(database: Database) -> None:
    """Where it lacks a column or has it in another type, that is told before dbt trips over it."""
    tables = read(HEAD + READINGS)
    set_up(database, tables)
    with database.connect() as connection:
        connection.execute("drop table raw.readings; create schema warehouse")
        connection.execute("create table warehouse.events (like raw.users)")
        connection.execute("create view raw.readings as select 1 as number from warehouse.events")
    with pytest.raises(
        RawTableError, match=r"raw.readings is a view or .* without the column sensor"
    ):
        set_up(database, tables)
    view = (
        "create or replace view raw.readings as select gen_random_uuid() as sensor, 1 as number,"
        " {} as read_at, user_id::varchar(9) as owner, 1.5::real as celsius, null::numeric(6,2) as price,"
        " true as is_new, null::date as made_on, 'on'::text as state, null::jsonb as about,"
        " null::text[] as tags, null::bigint[] as counts, null::float8[] as embedding,"
        " null::boolean[] as flags, as_of, load_id, loaded_at, superseded_by from warehouse.events"
    )
    for read_at, refused in (("loaded_at::timestamp", True), ("loaded_at", False)):
        with database.connect() as connection:
            connection.execute("drop view raw.readings")
            connection.execute(view.format(read_at))  # type: ignore[arg-type]
        if refused:
            with pytest.raises(RawTableError, match="read_at is timestamp without time zone, and"):
                set_up(database, tables)
        else:
            set_up(database, tables)


def test_the_declaration_of_another_project_is_the_one_in_effect(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A copy of the dbt project elsewhere, by dbt's own variable."""
    from data.__main__ import main

    path = tmp_path / "models" / "staging" / "_sources.yml"
    path.parent.mkdir(parents=True)
    path.write_text(HEAD + READINGS)
    monkeypatch.setenv("DBT_PROJECT_DIR", str(tmp_path))
    assert main(["contract"]) == 0
    said = capsys.readouterr().out
    assert "### readings.csv\n\nWhat sensors measured. Event: one row a sensor and number." in said
    assert "usage.csv" not in said
    assert main(["setup"]) == 0
    assert main(["load", str(put(tmp_path, users="user_id,signup_date\na,2024-01-01\n"))]) == 0
