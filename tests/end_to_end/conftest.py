"""The programs as a person runs them: a shell, a working directory, nothing imported."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

ROOT = Path(__file__).resolve().parents[2]
Shell = Callable[..., str]
Serving = Callable[..., AbstractContextManager[str]]


def _environment(project: Path) -> dict[str, str]:
    """The active environment, with the packages of `project` before the installed ones."""
    bin_folder = Path(sys.executable).parent
    return os.environ | {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(project),
    }


@pytest.fixture
def shell() -> Shell:
    """`shell(command, project=ROOT)`: run a line in a shell; its output, or fail with it."""

    def run(command: str, project: Path = ROOT, status: int = 0) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=project,
            env=_environment(project),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
        output = done.stdout + done.stderr
        assert done.returncode == status, f"$ {command}\n{output[-6000:]}"
        return output

    return run


@pytest.fixture
def serving(free_port: Callable[[], int], tmp_path: Path) -> Serving:
    """`with serving(command, project=ROOT) as address`: `{port}` in the command is a free one."""

    @contextmanager
    def run(command: str, path: str = "/ready", project: Path = ROOT) -> Iterator[str]:
        port = free_port()
        address = f"http://127.0.0.1:{port}"
        log = tmp_path / f"serving-{port}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", "exec " + command.format(port=port)],
                cwd=project,
                env=_environment(project),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + 60
            while not _answers(address + path):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(15)

    return run


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


@pytest.fixture
def get() -> Callable[[str], dict[str, Any]]:
    """`get(url)`: the JSON that a GET answers."""

    def ask(url: str) -> dict[str, Any]:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)

    return ask


@pytest.fixture
def project_copy(tmp_path: Path) -> Path:
    """A copy of the checkout that a test may change."""
    copy = tmp_path / "copy"
    generated = {".venv", ".git", ".state", "target", "logs", "drops", "processed"}

    def leave_out(folder: str, names: list[str]) -> set[str]:
        ours = {"tests"} if Path(folder) == ROOT else set()  # dbt's own tests come along
        return {name for name in names if name in generated | ours or "cache" in name}

    shutil.copytree(ROOT, copy, ignore=leave_out)
    return copy


@pytest.fixture
def own_copy(
    project_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    free_port: Callable[[], int],
    session_folder: Path,
    shell: Shell,
) -> Iterator[Path]:
    """The copy with an environment, where `make` runs, and a database server of its own."""
    if not (ROOT / ".venv" / ".runtime").exists():
        pytest.fail("`make` in a copy needs the environment that `make test` makes")
    (project_copy / ".venv").symlink_to(ROOT / ".venv")
    monkeypatch.setenv("STREAMFLOW_STATE", str(session_folder / f"{uuid4().hex[:8]}-state"))
    monkeypatch.setenv("STREAMFLOW_PG_PORT", str(free_port()))
    monkeypatch.delenv("DBT_TARGET_PATH")  # nothing set: where dbt itself would put it
    monkeypatch.delenv("DBT_LOG_PATH")
    yield project_copy
    shell("make down", project_copy)
