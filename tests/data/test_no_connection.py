"""Why there is no connection, told apart. "Start it with make up" helps nobody whose password is
wrong, and he would look for a server that is there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import psycopg
import pytest

from data.__main__ import main
from data.database import Database, no_connection

CASES = {
    "a wrong password": (
        {"PASSWORD": "tr0ub4dor"}, "login", "password authentication failed",
        "STREAMFLOW_PG_PASSWORD",
    ),
    "a role that is not there": ({"USER": "nobody"}, "login", "nobody", "STREAMFLOW_PG_USER"),
    "SSL asked of a server without": (
        {"SSLMODE": "require"}, "ssl", "does not support SSL", "STREAMFLOW_PG_SSLMODE=prefer"
    ),
    "an sslmode that is none": ({"SSLMODE": "yes"}, "ssl", "invalid sslmode", "SSLMODE=prefer"),
    "a database that is not there": (
        {"DATABASE": "nowhere"}, "database", '"nowhere" does not exist', "STREAMFLOW_PG_DATABASE"
    ),
    "a host that is none": (
        {"HOST": "no.such.invalid", "PASSWORD": "tr0ub4dor"}, "host", "resolve",
        "STREAMFLOW_PG_HOST",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_cause_is_told_with_libpqs_own_text_and_what_helps(
    case: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, kind, said, remedy = CASES[case]
    for name, value in changed.items():
        monkeypatch.setenv(f"STREAMFLOW_PG_{name}", value)
    settings = Database()
    with pytest.raises(psycopg.OperationalError) as failed:
        settings.connect()
    why = no_connection(failed.value, settings)
    assert why.kind == kind
    assert said in why.cause
    assert remedy in why.remedy
    assert not why.transient
    assert "tr0ub4dor" not in str(why)
    assert "\n" not in str(why)


def test_the_serving_role_is_told_by_its_own_settings(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMFLOW_PG_SERVING_PASSWORD", "wrong")
    with pytest.raises(psycopg.OperationalError) as failed:
        psycopg.connect(Database().conninfo(serving=True))
    why = no_connection(failed.value, Database(), serving=True)
    assert "'streamflow_serving'" in why.cause
    assert "STREAMFLOW_PG_SERVING_PASSWORD" in why.remedy


def test_no_server_and_another_program_on_its_port(
    free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMFLOW_PG_PORT", str(free_port()))
    with pytest.raises(psycopg.OperationalError) as failed:
        Database().connect()
    why = no_connection(failed.value, Database())
    assert (why.kind, why.transient) == ("down", True)
    assert "refused" in why.cause
    assert "`make up`" in why.remedy
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            for _ in range(2):
                caller = other.accept()[0]
                caller.recv(100)
                caller.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                caller.close()

        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setenv("STREAMFLOW_PG_PORT", str(other.getsockname()[1]))
        with pytest.raises(psycopg.OperationalError) as failed:
            Database().connect()
    assert no_connection(failed.value, Database()).kind == "foreign"


@pytest.mark.parametrize(
    ("text", "kind", "transient"),
    [
        ("FATAL:  sorry, too many clients already", "busy", True),
        ("FATAL:  the database system is starting up", "starting", True),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "a"', "access", False),
        ("Database Error\n  connection timeout expired", "down", True),
        ("something that nobody has met", "other", False),
    ],
)
def test_what_is_hard_to_bring_about(text: str, kind: str, transient: bool) -> None:
    said = f'connection failed: connection to server at "h", port 1 failed: {text}'
    why = no_connection(said, Database())
    assert (why.kind, why.transient) == (kind, transient)


@pytest.mark.parametrize("command", [["up"], ["setup"], ["load", "2024-01-31"]])
def test_the_loader_says_so_in_one_line(
    command: list[str],
    database: Database,
    tmp_path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("STREAMFLOW_PG_PASSWORD", "tr0ub4dor")
    drop = tmp_path / "2024-01-31"
    drop.mkdir()
    (drop / "users.csv").write_text(
        "user_id,signup_date,user_gender,user_is_senior,has_family,has_dependents\na,2023-05-01,,,,\n"
    )
    assert main([str(drop) if part == drop.name else part for part in command]) == 1
    said = capsys.readouterr().err.strip()
    assert "password authentication failed" in said
    assert "STREAMFLOW_PG_PASSWORD" in said
    assert "make up" not in said
    assert "\n" not in said
