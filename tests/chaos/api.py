"""The API with two workers, of which one is killed while it is asked."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from data.postgres.server import ps

ROOT = Path(__file__).resolve().parents[2]
BACK = 30.0  # seconds after which every request has to be answered again


def kill_a_worker(chance: random.Random) -> list[str]:
    """Start, ask, kill, ask until all is well again, stop; what was wrong."""
    from tests.conftest import _free_port

    port = _free_port()
    environment = os.environ | {
        "STREAMFLOW_API_PORT": str(port), "STREAMFLOW_API_WORKERS": "2",
        "STREAMFLOW_API_ACCESS_LOG": "false",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "serving"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        if not _well(port, 60):
            return ["the API did not start"]
        workers = _children(process.pid)
        if not workers:
            return ["the API has no workers"]
        os.kill(chance.choice(workers), 9)
        found = []
        for _ in range(50):  # those under way may break; an answer may not be wrong
            status = _ask(port)
            if status not in (200, 404, 503, 0):
                found.append(f"the API answered {status} while a worker was gone")
        if not _well(port, BACK):
            found.append(f"the API did not answer {BACK:.0f} s after a worker was killed")
        return found
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def _children(pid: int) -> list[int]:
    """The workers of the API; its other child only watches over shared memory."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout
    children = [int(a) for a, b in (line.split() for line in listed.splitlines()) if int(b) == pid]
    return [child for child in children if "spawn_main" in ps("command", child)]


def _ask(port: int) -> int:
    """The status of an answer about somebody; 0 where the connection broke."""
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}/features/nobody", timeout=3
        ) as answer:
            json.load(answer)
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):
        return 0


def _well(port: int, seconds: float) -> bool:
    """Whether ten requests in a row are answered before the time is over."""
    end, good = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        good = good + 1 if _ask(port) in (200, 404) else 0
        if good == 10:
            return True
        time.sleep(0.1 if good == 0 else 0)
    return False
