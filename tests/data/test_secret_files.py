"""Passwords by file. If one fails, a mounted secret is not read, or not the one that is meant."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from data import secret_files
from data.database import Database

NAME = "STREAMFLOW_PG_SERVING_PASSWORD"


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the environment names."""
    monkeypatch.setenv(NAME, "to be put back afterwards")
    monkeypatch.delenv(NAME)
    monkeypatch.setenv(f"{NAME}_FILE", str(tmp_path / "secret"))
    return tmp_path / "secret"


def test_a_password_may_lie_in_a_file(given: Path) -> None:
    given.write_text(" pa$word'\"\\\n")
    secret_files.take()
    secret_files.take()  # a process that this one starts has both
    assert Database().serving_password.get_secret_value() == " pa$word'\"\\"


def test_every_program_of_ours_reads_it(given: Path) -> None:
    given.write_text("from a file\n")
    code = "from data.database import Database as D; print(D().conninfo(serving=True))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "password='from a file'" in done.stdout


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), (b"\n", "is empty"), (b"\xff", "no text")]
)
def test_a_file_without_a_password_is_refused(
    given: Path, content: bytes | None, said: str
) -> None:
    if content is not None:
        given.write_bytes(content)
    with pytest.raises(secret_files.SecretError, match=f"{NAME}_FILE {given}.*{said}"):
        secret_files.take()


def test_two_different_passwords_are_refused(given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given.write_text("one")
    monkeypatch.setenv(NAME, "another")
    with pytest.raises(secret_files.SecretError, match="say different things") as refused:
        secret_files.take()
    assert "another" not in str(refused.value)
