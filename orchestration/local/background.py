"""Start programs that outlive the command that started them, and stop them again.

`<state>/<name>.pid` holds the process id and what the process was started as; a pid that now
belongs to another program is not ours to stop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from data.postgres.server import command_line, ps, state_folder


class BackgroundError(RuntimeError):
    """The program did not start; the text says why and where its log is."""


def start(name: str, command: list[str], url: str, *, seconds: float = 60) -> None:
    """Start `command` unless something else listens there; return once `url` answers 200.

    Its output goes to `<state>/<name>.log`.

    Raises:
        BackgroundError: the port is taken, the program ended, or `url` did not answer in time.
    """
    stop(name)
    where = urlsplit(url)
    check_free(name, where.hostname or "", where.port or 80)
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C in this terminal does not reach it
        )
    remember(name, process.pid, command)
    if not wait_until(lambda: process.poll() is not None or _answers(url), seconds):
        stop(name)
        raise BackgroundError(f"{name} did not answer at {url} within {seconds:.0f} s; see {log}")
    if process.poll() is not None:
        _pid_file(name).unlink(missing_ok=True)
        end = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
        raise BackgroundError(f"{name} ended with status {process.returncode}:\n{end}")


def check_free(name: str, host: str, port: int) -> None:
    """Raise BackgroundError when something listens there."""
    with socket.socket() as probe:
        if probe.connect_ex((host, port)) == 0:
            raise BackgroundError(f"{name}: {host}:{port} is taken by another program")


def remember(name: str, pid: int, command: list[str]) -> None:
    """Note a program that `stop` is to stop, also one that runs in the foreground."""
    state_folder().mkdir(parents=True, exist_ok=True)
    _pid_file(name).write_text(f"{pid}\n{' '.join(command)}\n")


def runs(name: str) -> bool:
    """Whether what was started under this name still runs."""
    try:
        pid, command = _pid_file(name).read_text().splitlines()[:2]
        return _runs(int(pid), command)
    except (OSError, ValueError):
        return False


def stop(name: str, *, seconds: float = 10) -> bool:
    """Stop what was started under this name; whether it was running.

    A program that has not ended after `seconds` is killed.
    """
    file = _pid_file(name)
    try:
        pid_text, command = file.read_text().splitlines()[:2]
    except (OSError, ValueError):
        return False
    pid = int(pid_text)
    running = _runs(pid, command)
    if running:
        os.kill(pid, signal.SIGTERM)
        if not wait_until(lambda: _ended(pid), seconds) and _runs(pid, command):
            os.kill(pid, signal.SIGKILL)
    file.unlink(missing_ok=True)
    return running


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Ask ten times a second; whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _pid_file(name: str) -> Path:
    return state_folder() / f"{name}.pid"


def _runs(pid: int, command: str) -> bool:
    """Whether `pid` lives and still is that command."""
    arguments = command.partition(" ")[2]  # an interpreter may show under its real path
    return not _ended(pid) and command_line(pid).endswith(arguments)


def _ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie, which holds nothing; one of ours is reaped.

    Not to be seen from its command line: that is gone a moment before its ports are free.
    """
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    if Path("/proc/self/stat").exists():
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        except OSError:
            return True
        return state in "ZX" and threads == 1  # the first thread may be one while others go on
    state = ps("stat", pid)
    return not state or state.startswith("Z")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False
