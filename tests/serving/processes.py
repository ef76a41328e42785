"""Run the API as a process of its own, and put load on it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx

from data.database import Database

ROOT = Path(__file__).resolve().parent.parent.parent


def environment(database: Database, **settings: object) -> dict[str, str]:
    """The environment of an API over `database`; settings are those of serving.settings."""
    given = {f"STREAMFLOW_API_{name.upper()}": str(value) for name, value in settings.items()}
    where = {
        "STREAMFLOW_PG_PORT": str(database.port),
        "STREAMFLOW_PG_DATABASE": database.database,
    }
    ours = {k: v for k, v in os.environ.items() if k != "PROMETHEUS_MULTIPROC_DIR"}  # Feast's doing
    return {**ours, **where, **given}


@contextlib.contextmanager
def api(
    database: Database, port: int, log: Path, *arguments: str, **settings: object
) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m serving`, once it says that the process works; killed with the block."""
    command = [sys.executable, "-m", "serving", "--port", str(port), *arguments]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment(database, **settings), stdout=out, stderr=out, cwd=ROOT
        )
    try:
        _until(lambda: process.poll() is not None or _answers(port), log)
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=1).status_code == 200
    except httpx.TransportError:
        return False


def _until(condition: object, log: Path, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


class Load:
    """Clients that ask for users without a pause, and note every answer until told to stop."""

    def __init__(self, port: int, clients: int = 8, users: int = 200) -> None:
        self.answers: list[tuple[float, float, int, bool]] = []  # end, seconds, status, right
        self.broken: Counter[str] = Counter()
        self._url, self._users = f"http://127.0.0.1:{port}/features/", users
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        with httpx.Client(timeout=5) as client:
            turn = number
            while not self._stop.is_set():
                turn += 1
                i = turn * 7 % self._users
                started = time.monotonic()
                try:
                    answer = client.get(f"{self._url}u{i:05}")
                except httpx.TransportError as error:
                    self.broken[type(error).__name__] += 1
                    time.sleep(0.01)
                    continue
                right = answer.status_code != 200 or (
                    answer.json()["features"]["monthly_fee"] == i / 7
                    and answer.json()["features"]["skips_7d"] == i
                )
                end = time.monotonic()
                self.answers.append((end, end - started, answer.status_code, right))

    def during(self, start: float, end: float = float("inf")) -> list[tuple[float, int]]:
        """Seconds and status of the answers that arrived between two instants."""
        return [(took, status) for at, took, status, _ in self.answers if start <= at < end]
