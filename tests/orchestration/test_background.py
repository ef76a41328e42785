"""Programs left running: stopped by us when they are ours, and never when they are not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestration.local import background


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STREAMFLOW_STATE", str(tmp_path))
    return tmp_path


def web_server(port: int) -> tuple[list[str], str]:
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    return command, f"http://127.0.0.1:{port}/"


def test_started_once_and_stopped_once(free_port: Callable[[], int]) -> None:
    command, url = web_server(free_port())
    background.start("pages", command, url)
    for _ in range(10):  # again: in its place, not beside it, and not before its port is free
        background.start("pages", command, url)
    assert background.stop("pages")
    assert not background.stop("pages")


def test_a_taken_port_is_told(free_port: Callable[[], int]) -> None:
    command, url = web_server(free_port())
    background.start("pages", command, url)
    try:
        with pytest.raises(background.BackgroundError, match="taken by another program"):
            background.start("others", command, url)
    finally:
        background.stop("pages")


def test_a_program_that_ends_is_told_with_its_last_words(free_port: Callable[[], int]) -> None:
    command = [sys.executable, "-c", "import sys; print('no configuration'); sys.exit(3)"]
    with pytest.raises(background.BackgroundError, match=r"status 3:\nno configuration"):
        background.start("pages", command, f"http://127.0.0.1:{free_port()}/")


def test_a_pid_that_is_now_another_programs_is_left_alone(state: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (state / "pages.pid").write_text(f"{other.pid}\n{sys.executable} -m http.server 1\n")
        assert not background.stop("pages")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
