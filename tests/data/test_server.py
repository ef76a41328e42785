"""`up` and `down`: the embedded server starts once, says what stands in its way, and keeps data."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data.__main__ import main
from data.database import Database
from data.load.load import load
from data.postgres.server import EmbeddedServer
from orchestration.local.demo import DemoError, demo
from tests.data.drops import USERS, effective
from tests.data.test_load import JAN, Drop


@pytest.fixture
def address(
    session_folder: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """Settings of a server that does not run yet; stopped and removed afterwards."""
    monkeypatch.setenv("STREAMFLOW_PG_PORT", str(free_port()))
    monkeypatch.setenv("STREAMFLOW_STATE", str(session_folder / "another-state"))
    server = EmbeddedServer()
    yield server.settings
    server.stop("immediate")
    for folder in (server.home, server.socket, server.state):
        shutil.rmtree(folder, ignore_errors=True)


def test_up_and_down_may_be_repeated_and_data_stays(
    address: Database, drop: Drop, capsys: pytest.CaptureFixture[str]
) -> None:
    up = [sys.executable, "-m", "data", "up"]
    both = [subprocess.Popen(up, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [one.wait(60) for one in both] == [0, 0], "two at once"
    load(drop(JAN, users=USERS), address)
    assert main(["up"]) == 0, "already running"
    assert main(["down"]) == 0
    assert main(["down"]) == 0
    assert main(["up"]) == 0
    assert len(effective(address, "users")) == 2
    lines = capsys.readouterr().out.splitlines()
    place = f"Postgres at 127.0.0.1:{address.port}/streamflow"
    assert lines[:3] == [place, "Postgres stopped", "Postgres was not running"]
    assert lines[3].startswith(f"{place} (embedded; data and log in ")


def test_a_port_that_is_taken_is_named(
    address: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", address.port)) as other:
        # Hang up at once, so that asking for a Postgres there fails instead of waiting.
        other.settimeout(0)
        refuse = subprocess.Popen(
            [sys.executable, "-c", _HANG_UP, str(other.fileno())], pass_fds=[other.fileno()]
        )
        try:
            assert main(["up"]) == 1
        finally:
            refuse.kill()
            refuse.wait()
    assert (
        f"Port {address.port} is taken by another program. "
        "Stop it, or set STREAMFLOW_PG_PORT to a free port." in capsys.readouterr().err
    )


def test_a_pid_file_of_before_a_reboot_ends_nobody(address: Database) -> None:
    """Its number may be anybody's: `down` must not end that program, nor `up` wait for it."""
    assert main(["up"]) == 0
    server = EmbeddedServer()
    file = server.cluster / "postmaster.pid"
    noted = file.read_text()
    assert main(["down"]) == 0
    account = {"user": server.account.pw_uid} if server.account else {}
    with subprocess.Popen(["sleep", "60"], **account) as stranger:
        try:
            for text in (f"{stranger.pid}\n" + noted.partition("\n")[2], "", "junk\n"):
                file.write_text(text)
                server._own(file)
                assert main(["down"]) == 0
                assert stranger.poll() is None
                assert main(["up"]) == 0
                assert stranger.poll() is None
                assert server.ready()
                assert main(["down"]) == 0
        finally:
            stranger.kill()


def test_another_folders_server_at_the_same_port_is_not_taken_for_ours(
    address: Database,
    session_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["up"]) == 0
    with monkeypatch.context() as other:
        other.setenv("STREAMFLOW_STATE", str(session_folder / "a-third-state"))
        assert not EmbeddedServer().ready()
        capsys.readouterr()
        assert main(["up"]) == 0
        assert "found there: not the one of this folder" in capsys.readouterr().out
        assert main(["down"]) == 0
        with pytest.raises(DemoError, match=f"127.0.0.1:{address.port} is taken, and not by"):
            demo()
    assert EmbeddedServer().ready()


def test_a_cluster_that_was_deleted_in_part_is_told_and_kept(
    address: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new one in its place would be the end of what can still be saved."""
    assert main(["up"]) == 0
    assert main(["down"]) == 0
    server = EmbeddedServer()
    (server.cluster / "PG_VERSION").unlink()
    shutil.rmtree(server.cluster / "pg_xact")
    assert main(["up"]) == 1
    said = capsys.readouterr().err
    assert "PG_VERSION, pg_xact are missing" in said
    assert "rm -rf" in said
    assert (server.cluster / "base").exists()


_HANG_UP = """
import socket, sys
server = socket.socket(fileno=int(sys.argv[1]))
server.setblocking(True)
while True:
    server.accept()[0].close()
"""
