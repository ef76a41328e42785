"""`make up` on a Postgres of one's own: the serving role's password, missing rights, defaults."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from pydantic import SecretStr

from data.__main__ import main
from data.database import Database, SettingsError
from data.postgres.setup import SetUpError, set_up


def lets_in(settings: Database) -> bool:
    try:
        psycopg.connect(settings.conninfo(serving=True)).close()
    except psycopg.OperationalError:
        return False
    return True


def with_serving(settings: Database, password: str, role: str = "rotated") -> Database:
    secret = SecretStr(password)
    return settings.model_copy(update={"serving_user": role, "serving_password": secret})


@pytest.fixture
def plain_owner(database: Database) -> Iterator[Database]:
    """An owner of the database without any further right, as hosting companies give out."""
    with psycopg.connect(database.conninfo(), autocommit=True) as admin:
        admin.execute("drop schema if exists raw, staging, features, published, online, ledger"
                      " cascade")  # fmt: skip
        admin.execute("create role plain_owner login password 'plain'")
        admin.execute(f"alter database {database.database} owner to plain_owner")
    try:
        yield database.model_copy(update={"user": "plain_owner", "password": SecretStr("plain")})
    finally:
        with psycopg.connect(database.conninfo(), autocommit=True) as admin:
            admin.execute(f"alter database {database.database} owner to {database.user}")
            admin.execute(f"reassign owned by plain_owner to {database.user}")
            admin.execute("drop owned by plain_owner; drop role plain_owner")
            for role in ("rotated", "missing"):
                if admin.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone():
                    admin.execute(f"drop owned by {role}; drop role {role}")


def test_up_sets_the_password_that_it_is_given(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a rotated secret leaves the API locked out, and `make up` says that all is well."""
    monkeypatch.setenv("STREAMFLOW_PG_SERVING_USER", "rotated")
    for password in ("first", "it's \\ second"):
        monkeypatch.setenv("STREAMFLOW_PG_SERVING_PASSWORD", password)
        assert not lets_in(Database())
        assert main(["up"]) == 0
        assert lets_in(Database())
    with psycopg.connect(database.conninfo(), autocommit=True) as admin:
        admin.execute("drop owned by rotated; drop role rotated")


def test_an_owner_who_may_not_make_roles_is_told_what_to_ask_for(
    plain_owner: Database, database: Database
) -> None:
    missing = with_serving(plain_owner, "secret", "missing")
    with pytest.raises(SetUpError, match='create role "missing" login password') as refused:
        set_up(missing)
    assert "secret" not in str(refused.value)
    with psycopg.connect(database.conninfo(), autocommit=True) as admin:
        admin.execute("create role rotated login password 'right'")
    with pytest.raises(SetUpError, match='alter role "rotated" login password'):
        set_up(with_serving(plain_owner, "wrong"))
    set_up(with_serving(plain_owner, "right"))  # the administrator made it so
    with psycopg.connect(with_serving(plain_owner, "right").conninfo(serving=True)) as reader:
        assert reader.execute("select count(*) from ledger.publications").fetchone() == (0,)


def test_default_passwords_stay_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in a public file: a role with one on another host is open to everybody."""
    for host in ("db.example", "10.0.0.5", "127.0.0.1,db.example"):
        monkeypatch.setenv("STREAMFLOW_PG_HOST", host)
        with pytest.raises(SettingsError, match="set STREAMFLOW_PG_PASSWORD to a secret"):
            Database().conninfo()
        with pytest.raises(SettingsError, match="set STREAMFLOW_PG_SERVING_PASSWORD to a secret"):
            Database().conninfo(serving=True)
    for host in ("localhost", "127.0.0.2", "::1", "/var/run/postgresql"):
        monkeypatch.setenv("STREAMFLOW_PG_HOST", host)
        assert Database().conninfo()
        assert Database().conninfo(serving=True)
    monkeypatch.setenv("STREAMFLOW_PG_HOST", "db.example")
    monkeypatch.setenv("STREAMFLOW_PG_SERVING_PASSWORD", "a secret")
    assert Database().conninfo(serving=True)  # the API needs no more than that one


def test_up_refuses_a_default_before_it_connects(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STREAMFLOW_PG_HOST", "no.such.invalid")
    assert main(["up"]) == 1
    assert "set STREAMFLOW_PG_PASSWORD" in capsys.readouterr().err
