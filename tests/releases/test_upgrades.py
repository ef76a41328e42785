"""A database of an earlier release goes on under this one: nothing that was published is lost.

If one of these fails, whoever runs `make up` after an update has other features than before, or a
database that neither release can use.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from data import __version__
from data.__main__ import main
from data.database import Database
from data.postgres.migrate import MigrationError, migrate, migrations
from data.postgres.server import EmbeddedServer
from data.postgres.setup import set_up
from tests.dbt.builds import execute, rows
from tests.releases.keep import FOLDER, answers, digest_of

RELEASES = sorted(FOLDER.glob("*.sql.gz"))
COLUMNS = """
select concat_ws(' ', nspname, relname, attname, format_type(atttypid, atttypmod), attnotnull)
from pg_attribute join pg_class on pg_class.oid = attrelid
join pg_namespace on pg_namespace.oid = relnamespace
where nspname in ('raw', 'ledger') and relkind = 'r' and attnum > 0 and not attisdropped
union all
select indexdef from pg_indexes where schemaname in ('raw', 'ledger')
union all
select concat_ws(' ', pronamespace::regnamespace, oid::regprocedure) from pg_proc
where pronamespace::regnamespace::text in ('raw', 'ledger', 'online')
order by 1
"""


def restore(server: EmbeddedServer, dump: Path, settings: Database) -> None:
    """A plain dump into the settings' database, which is made anew."""
    admin = settings.model_copy(update={"database": "postgres"})
    with psycopg.connect(admin.conninfo(), autocommit=True) as connection:
        connection.execute(f"drop database if exists {settings.database} with (force)")
        connection.execute(f"create database {settings.database}")
    subprocess.run(
        [
            str(server._binaries() / "psql"), "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1",
            "--output", os.devnull, "--dbname", settings.conninfo(),
        ],
        input=gzip.decompress(dump.read_bytes()), check=True,
    )  # fmt: skip


@pytest.fixture(params=RELEASES, ids=lambda file: file.name.removesuffix(".sql.gz"))
def old(
    request: pytest.FixtureRequest, server: EmbeddedServer, database: Database, target: Path
) -> dict:
    """A database as that release left it, under the usual name; what it answered."""
    restore(server, request.param, database)
    return json.loads(request.param.with_name(request.param.name[:-7] + ".json").read_text())


def test_a_dump_of_each_release_is_kept() -> None:
    assert [file.name for file in RELEASES][:1] == ["0.1.sql.gz"]


def test_after_an_upgrade_everything_is_answered_as_before(old: dict, database: Database) -> None:
    assert main(["up"]) == 0
    assert answers() == old
    columns = rows(COLUMNS)
    assert rows("select max(number), max(release) from ledger.migrations") == [
        (len(migrations()), __version__)
    ]
    assert main(["up"]) == 0
    assert rows(COLUMNS) == columns

    from orchestration import steps

    steps.pipeline()  # builds with this release's models, and audits
    now = answers()["training_sets"]
    assert {stamp: now[stamp] for stamp in old["training_sets"]} == old["training_sets"]
    with database.connect() as connection:
        for view, before in old["views"].items():
            assert digest_of(connection, view, before["columns"]) == before, view


def test_an_upgraded_schema_is_that_of_a_new_database(
    old: dict, server: EmbeddedServer, database: Database
) -> None:
    set_up(database)
    upgraded = rows(COLUMNS)
    with psycopg.connect(
        database.model_copy(update={"database": "postgres"}).conninfo(), autocommit=True
    ) as admin:
        admin.execute(f"drop database {database.database} with (force)")
        admin.execute(f"create database {database.database}")
    set_up(database)
    assert upgraded == rows(COLUMNS)


def test_a_database_of_a_later_release_is_refused(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(
        "insert into ledger.migrations select max(number) + 1, 'of_tomorrow', '', '9.0.0'"
        " from ledger.migrations"
    )
    before = rows(COLUMNS)
    assert main(["up"]) == 1
    said = capsys.readouterr().err
    assert "schema of release 9.0.0" in said
    assert "Run release 9.0.0 or a later one" in said
    assert rows(COLUMNS) == before


def test_a_step_that_was_edited_after_its_release_is_refused(database: Database) -> None:
    steps = migrations()
    edited = [*steps[:-1], replace(steps[-1], text=steps[-1].text + "-- a comment\n")]
    with database.connect() as connection, pytest.raises(MigrationError, match="another text"):
        migrate(connection, edited)


def test_a_step_that_fails_leaves_nothing_of_itself_or_of_those_before_it(
    database: Database,
) -> None:
    number = len(migrations())
    new = [
        replace(migrations()[0], number=number + 1, name="fine", text="create table raw.new ()"),
        replace(migrations()[0], number=number + 2, name="bad", text="select 1 / 0"),
    ]
    with pytest.raises(psycopg.errors.DivisionByZero), database.connect() as connection:
        migrate(connection, [*migrations(), *new])
    assert rows("select to_regclass('raw.new')::text, max(number) from ledger.migrations") == [
        (None, number)
    ]


def test_a_number_that_is_missing_is_told(tmp_path: Path) -> None:
    (tmp_path / "0001_one.sql").write_text("")
    (tmp_path / "0003_three.sql").write_text("")
    with pytest.raises(MigrationError, match="expected 0002_"):
        migrations(tmp_path)
