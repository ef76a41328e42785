"""Each role can do its part of the work, and nothing that is another's.

If one of these fails, whoever gets into the API, a notebook or a dbt model of somebody else's can
read raw rows, or change what is online or published.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from data.database import STEP_ROLES, Database
from data.postgres.roles import RolesError
from data.postgres.setup import set_up
from orchestration import steps, told
from orchestration.defs.dagster_service import make_schema
from streamflow_feast.connections import close_pools

LOGIN = "streamflow_steps"
# What a statement is about -> the statement, and who but the owner may do it.
ACTS = {
    "read raw rows": ("select from raw.users limit 1", {"loader", "builder"}),
    "write raw rows": ("insert into raw.loads (load_id) values (null)", {"loader"}),
    "delete raw rows": ("delete from raw.users", set()),
    "read who was erased": ("select from raw.erased", {"loader"}),
    "take somebody off that list": ("delete from raw.erased", set()),
    "read unpublished versions": ("select from features.usage_features limit 1", {"builder"}),
    "write versions": (
        "insert into features.churn_labels (user_id, as_of) values ('x', null)", {"builder"},
    ),
    "read published": (
        "select from published.usage_features limit 1",
        {"builder", "materializer", "trainer", "auditor"},
    ),
    "publish": (
        "insert into ledger.publications (known_at) values (null)", {"builder"},
    ),
    "read the ledger of builds": (
        "select from ledger.builds limit 1", {*STEP_ROLES, "serving"} - {"loader"},
    ),
    "read results of tests": (
        "select from ledger.tests limit 1", {"builder", "materializer", "auditor", "serving"},
    ),
    "change a publication": ("update ledger.publications set tests_run = 0", set()),
    "read online rows": (
        "select from online.usage_features limit 1", {"materializer", "auditor", "serving"},
    ),
    "write online rows": ("delete from online.usage_features where false", {"materializer"}),
    "read the registry": (
        "select from online.registry", {"materializer", "auditor", "serving", "trainer"},
    ),
    "write the registry": ("delete from online.registry where false", {"materializer"}),
    "note an audit": ("insert into ledger.audits (view_name) values (null)", {"auditor"}),
    "note a materialization": (
        "insert into ledger.materializations (view_name) values (null)", {"materializer"},
    ),
    "make a table in published": ("create table published.mine ()", {"builder"}),
    "make a table in online": ("create table online.mine ()", {"materializer"}),
    "make a table in raw": ("create table raw.mine ()", set()),
    "make a table in public": ("create table public.mine ()", set()),
    "make a schema": ("create schema mine", set()),
    "make a role": ("create role mine", set()),
    "run a program of the server": ("copy (select 1) to program 'true'", set()),
    "read a file of the server": ("select pg_read_file('PG_VERSION')", set()),
}  # fmt: skip


@pytest.fixture
def roles(sample: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """The sample's database, set up for steps that take on roles; the settings of their login."""
    with_login = sample.model_copy(update={"roles": True, "steps_password": SecretStr("steps")})
    set_up(with_login)
    monkeypatch.setenv("STREAMFLOW_PG_ROLES", "on")
    monkeypatch.setenv("STREAMFLOW_PG_USER", LOGIN)
    monkeypatch.setenv("STREAMFLOW_PG_PASSWORD", "steps")
    yield Database()
    close_pools()
    with contextlib.suppress(psycopg.Error), sample.connect() as admin:
        admin.execute(f"drop owned by {LOGIN} cascade")
        admin.execute(f"drop role {LOGIN}")


def sessions(roles: Database) -> Iterator[tuple[str, psycopg.Connection]]:
    for name in STEP_ROLES:
        with roles.model_copy(update={"role": f"streamflow_{name}"}).connect() as connection:
            yield name, connection
    with psycopg.connect(roles.conninfo(serving=True)) as connection:
        yield "serving", connection


def test_each_role_does_its_part_and_nothing_else(roles: Database) -> None:
    wrong = []
    for name, connection in sessions(roles):
        for act, (statement, allowed) in ACTS.items():
            try:
                connection.execute(statement)  # type: ignore[call-overload]
                could = True
            except psycopg.errors.InsufficientPrivilege:
                could = False
            except (psycopg.errors.NotNullViolation, psycopg.errors.UndefinedTable):
                could = True  # it got as far as the row
            connection.rollback()
            if could is not (name in allowed):
                wrong.append(f"{name} {'can' if could else 'cannot'} {act}")
    assert wrong == []


def test_the_whole_pipeline_runs_on_the_rights_of_its_roles(
    roles: Database, sample: Database, sample_drops: Path, tmp_path: Path
) -> None:
    """As a login that owns nothing; what it makes belongs to the roles."""
    drop = sorted(sample_drops.iterdir())[-1]
    later = tmp_path / "2024-04-30"
    later.mkdir()
    for file in drop.iterdir():
        if file.suffix == ".csv" and file.stem in ("users", "subscriptions", "labels"):
            (later / file.name).write_bytes(file.read_bytes())
    with sample.connect() as connection:
        connection.execute("drop table online.registry")  # as before the first apply
    steps.pipeline([later])
    steps.training_set(["2024-03-31"], out=tmp_path)
    with sample.connect() as connection:
        owners = connection.execute(
            "select distinct nspname, relowner::regrole::text from pg_class"
            " join pg_namespace on pg_namespace.oid = relnamespace"
            " where nspname in ('staging', 'features', 'published', 'online') and relkind in"
            " ('r', 'v') order by 1"
        ).fetchall()
        assert owners == [
            ("features", "streamflow_builder"), ("online", "streamflow_materializer"),
            ("published", "streamflow_builder"), ("staging", "streamflow_builder"),
        ]  # fmt: skip
        assert connection.execute(
            "select rolsuper or rolcreaterole or rolcreatedb from pg_roles where rolname = %s",
            [LOGIN],
        ).fetchone() == (False,)


def test_the_commands_typed_in_composes_container_have_their_roles(
    roles: Database, sample: Database, target: Path, tmp_path: Path
) -> None:
    """With the environment of compose's `feast`: Feast's role by STREAMFLOW_PG_ROLE, dbt's by its
    profile, those of steps by the step."""
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {
        "STREAMFLOW_PG_ROLE": "streamflow_materializer",
        "DBT_PROJECT_DIR": str(root / "dbt_project"),
        "DBT_PROFILES_DIR": str(root / "dbt_project"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    for command in (
        ["dbt", "build", "--exclude-resource-type", "unit_test"],
        ["feast", "apply"],
        ["feast", "materialize-incremental", "2024-04-01T00:00:00"],
        [
            sys.executable, "build_training_dataset.py", "--as-of", "2024-02-29",
            "--out", str(tmp_path),
        ],
        [sys.executable, "-m", "orchestration", "audit"],
    ):  # fmt: skip
        done = subprocess.run(
            command, cwd=root / "feature_repo", env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    with sample.connect() as connection:
        (owners,) = connection.execute(
            "select array_agg(distinct relowner::regrole::text) from pg_class where relkind = 'r'"
            " and relnamespace in ('features'::regnamespace, 'online'::regnamespace)"
        ).fetchone() or ([],)
    assert sorted(owners) == ["streamflow_builder", "streamflow_materializer"]


def test_dagster_keeps_its_runs_in_a_schema_of_the_steps_login(
    roles: Database, sample: Database
) -> None:
    """Also where an earlier release had made it as the owner."""
    with sample.connect() as admin:
        admin.execute("create table dagster.runs (id serial primary key)")
    set_up(sample.model_copy(update={"roles": True, "steps_password": SecretStr("steps")}))
    make_schema()
    with roles.connect() as connection:
        connection.execute("insert into dagster.runs default values; create table dagster.x ()")
    with (
        roles.model_copy(update={"role": "streamflow_trainer"}).connect() as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("select from dagster.runs")


def test_steps_of_other_roles_are_refused(roles: Database, tmp_path: Path) -> None:
    """The trainer's connection cannot load a drop, say."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(told.ROLE_OF, "materialize", "trainer")
        with pytest.raises(steps.StepError, match="lacks a right"):
            steps.materialize(full=True)
        patch.setitem(told.ROLE_OF, "training-set", "loader")
        with pytest.raises(steps.StepError, match="lacks a right"):
            steps.training_set(["2024-03-31"], out=tmp_path)


def test_an_owner_who_may_not_make_roles_is_told_when_they_are_asked_for(
    database: Database,
) -> None:
    with psycopg.connect(database.conninfo(), autocommit=True) as admin:
        admin.execute("create role small login password 'small'")
        admin.execute("drop schema raw, staging, features, published, online, ledger cascade")
        admin.execute(f"alter database {database.database} owner to small")
    small = database.model_copy(update={"user": "small", "password": SecretStr("small")})
    try:
        set_up(small.model_copy(update={"serving_password": database.serving_password}))
        with pytest.raises(RolesError, match="alter role small createrole"):
            set_up(small.model_copy(update={"roles": True}))
    finally:
        with psycopg.connect(database.conninfo(), autocommit=True) as admin:
            admin.execute(f"alter database {database.database} owner to {database.user}")
            admin.execute(f"reassign owned by small to {database.user}")
            admin.execute("drop owned by small; drop role small")
