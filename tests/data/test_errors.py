"""What an error is told as. "No connection, make up" for a full disk sends people the wrong way,
and a retry that cannot help hides what is wrong for a while longer."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from data import errors
from data.database import Database
from data.errors import Trouble, command, trouble

ROOT = Path(__file__).resolve().parents[2]


def raised(database: Database, sqlstate: str) -> BaseException:
    """The server's own error with that code."""
    with database.connect() as connection, pytest.raises(psycopg.Error) as failed:
        connection.execute(f"do $$ begin raise exception using errcode = '{sqlstate}'; end $$")
    return failed.value


@pytest.mark.parametrize(
    ("sqlstate", "kind", "transient"),
    [
        ("53100", "disk full", False),
        ("40P01", "deadlock", True),
        ("40001", "conflict", True),
        ("53300", "busy", True),
        ("57014", "cancelled", False),
        ("57P01", "lost", True),
        ("55P03", "locked", True),
        ("42501", "permission", False),
        ("25006", "read-only", False),
        ("XX001", "damage", False),
        ("22003", "database", False),
    ],
)
def test_each_is_told_as_what_it_is(
    database: Database, sqlstate: str, kind: str, transient: bool
) -> None:
    told = trouble(raised(database, sqlstate))
    assert (told.kind, told.transient) == (kind, transient)
    assert "make up" not in str(told)


def test_a_query_that_somebody_cancels(database: Database) -> None:
    with (
        database.connect(options="-c statement_timeout=50") as connection,
        pytest.raises(psycopg.OperationalError) as failed,
    ):
        connection.execute("select pg_sleep(5)")
    told = trouble(failed.value)
    assert (told.kind, told.transient) == ("cancelled", False)
    assert "statement timeout" in told.cause


def test_a_connection_that_ends_in_the_middle(database: Database) -> None:
    connection = database.connect()
    with pytest.raises(psycopg.OperationalError) as failed:
        connection.execute("select pg_terminate_backend(pg_backend_pid())")
    assert (trouble(failed.value).kind, trouble(failed.value).transient) == ("lost", True)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Database Error in model a (a.sql)\n  deadlock detected\n  DETAIL: ...", "deadlock"),
        ("Database Error\n  could not extend file: No space left on device", "disk full"),
        ("Database Error\n  canceling statement due to user request", "cancelled"),
        ('Database Error\n  connection to server at "h", port 1 failed: Connection refused',
         "down"),
        ('connection to server at "h", port 1 failed: FATAL: sorry, too many clients already',
         "busy"),
        ("Compilation Error\n  no macro of that name", None),
    ],
)  # fmt: skip
def test_where_dbt_leaves_a_text_only(text: str, kind: str | None) -> None:
    told = errors.of_text(text)
    assert (told and told.kind) == kind


def test_what_is_not_the_databases_doing(monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "training_df.csv")
    assert trouble(full).kind == "disk full"
    assert "training_df.csv" in str(trouble(full))
    monkeypatch.setenv("STREAMFLOW_PG_PORT", "a port")
    with pytest.raises(ValueError, match="integer") as failed:
        Database()
    assert str(trouble(failed.value)).startswith("STREAMFLOW_PG_PORT: ")
    try:
        {}["features"]
    except KeyError as bug:
        told = trouble(bug)
    assert told.kind == "defect"
    assert "KeyError: 'features' (tests/data/test_errors.py:" in told.cause
    assert "--debug" in told.remedy


def test_debug_shows_the_traceback_and_no_command_needs_to_know(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[object] = []

    @command
    def main(arguments: object = None) -> int:
        seen.append(arguments)
        raise KeyError("features")

    assert main(["audit"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert main(["audit", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert main(["vector", "--", "--debug"]) == 1
    assert seen == [["audit"], ["audit"], ["vector", "--", "--debug"]]
    assert errors.DEBUG not in os.environ


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "load", "data/drops/2024-01-31"],
        ["orchestration", "materialize"],
        ["orchestration", "report", "--as-of", "2024-01-31"],
        ["orchestration", "leak-check"],
        ["orchestration", "training-set", "--as-of", "2024-01-31"],
        ["streamflow_feast", "audit"],
    ],
)
def test_no_command_ends_in_a_traceback_without_a_server(
    arguments: list[str], tmp_path: Path
) -> None:
    drop = tmp_path / "2024-01-31"
    drop.mkdir()
    (drop / "labels.csv").write_text("user_id,churn_label\na,true\n")
    given = [str(drop) if part.startswith("data/drops") else part for part in arguments]
    environment = os.environ | {"STREAMFLOW_PG_PORT": "1", "DBT_TARGET_PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", *given],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "127.0.0.1:1 does not answer" in done.stderr or "manifest" in done.stderr


def test_a_trouble_reads_as_sentences() -> None:
    assert str(Trouble("busy", "No room", "Wait.")) == "No room. Wait."
    assert str(Trouble("refused", "No", "")) == "No"


def test_a_column_that_the_contract_gained_is_made_by_make_up(database: Database) -> None:
    assert "`make up`" in str(trouble(raised(database, "42703")))
