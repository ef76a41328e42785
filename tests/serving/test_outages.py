"""One process through its life: outages, start, stop, several workers, overload."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from data.database import Database
from data.postgres.server import EmbeddedServer
from data.postgres.setup import set_up
from serving.main import create_app
from serving.settings import Settings
from tests.serving.hand_made import fill, running
from tests.serving.processes import Load, api


@pytest.fixture
def own_server(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[EmbeddedServer]:
    """A database server that may be stopped, with the hand-made store."""
    folder = Path("/tmp") / f"streamflow-outage-{os.getpid()}-{tmp_path.name}"
    settings = Database().model_copy(update={"port": free_port()})
    server = EmbeddedServer(settings, state=folder)
    server.start()
    try:
        server.create_database()
        set_up(settings)
        fill(settings)
        yield server
    finally:
        server.stop("immediate")
        for left in (folder, server.home, server.socket):
            shutil.rmtree(left, ignore_errors=True)


def postmaster(server: EmbeddedServer) -> psutil.Process:
    return psutil.Process(int((server.cluster / "postmaster.pid").read_text().split()[0]))


def test_an_outage_under_load(
    own_server: EmbeddedServer, free_port: Callable[[], int], tmp_path: Path
) -> None:
    """Postgres stops, hangs and comes back: quick 503s, no pile-up, quick recovery, no wrong value.

    All limits are those promised: an answer within 1 s, answers again within 2 s.
    """
    port, log = free_port(), tmp_path / "log"
    with api(own_server.settings, port, log) as process, Load(port) as load:
        me = psutil.Process(process.pid)
        time.sleep(1)
        before = (me.num_threads(), len(me.net_connections()))
        stopped = time.monotonic()
        own_server.stop("immediate")
        time.sleep(1.5)
        during = (me.num_threads(), len(me.net_connections()))
        ready = httpx.get(f"http://127.0.0.1:{port}/ready")
        own_server.start()
        back = time.monotonic()
        time.sleep(2.5)
        # A server that hangs says nothing at all: no error to react to.
        backends = [postmaster(own_server), *postmaster(own_server).children()]
        hung = time.monotonic()
        for backend in backends:
            backend.suspend()
        time.sleep(2)
        hanging = (me.num_threads(), len(me.net_connections()))
        alive = httpx.get(f"http://127.0.0.1:{port}/health")
        for backend in backends:
            backend.resume()
        awake = time.monotonic()
        time.sleep(2.5)
        end = time.monotonic()
    assert all(right for *_, right in load.answers)
    assert not load.broken
    assert {status for *_, status, _ in load.answers} <= {200, 503}
    assert max(took for _, took, *_ in load.answers) <= 1.0
    assert {s for _, s in load.during(stopped + 0.5, stopped + 1.5)} == {503}
    assert {s for _, s in load.during(back + 2, hung)} == {200}
    assert {s for _, s in load.during(hung + 1, hung + 2)} == {503}
    assert {s for _, s in load.during(awake + 2, end)} == {200}
    assert (ready.status_code, alive.status_code) == (503, 200)
    for threads, connections in (during, hanging):
        assert threads <= before[0] + 4  # name resolution's, a few at most
        assert connections <= before[1] + 4
    assert "Traceback" not in log.read_text()


def test_it_starts_before_its_database(
    own_server: EmbeddedServer, free_port: Callable[[], int], tmp_path: Path
) -> None:
    own_server.stop()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with api(own_server.settings, port, tmp_path / "log", refresh=0.5):
        answers = [httpx.get(f"{url}{path}") for path in ("/ready", "/features/u00001", "/")]
        assert [a.status_code for a in answers] == [503, 503, 200]
        assert answers[0].headers["retry-after"] == "1"
        own_server.start()
        deadline = time.monotonic() + 2.5
        while httpx.get(f"{url}/ready").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert httpx.get(f"{url}/features/u00001").status_code == 200


def test_a_stop_answers_what_is_under_way(
    online: Database, free_port: Callable[[], int], tmp_path: Path
) -> None:
    """A reader that is held up by a lock in the database gets its answer after SIGTERM."""
    port, log = free_port(), tmp_path / "log"
    answers: list[httpx.Response] = []
    with api(online, port, log, timeout=8) as process:
        url = f"http://127.0.0.1:{port}/features/u00001"
        assert httpx.get(url).status_code == 200
        with online.connect() as holder:
            holder.execute("lock table online.plan_features in access exclusive mode")
            asking = threading.Thread(target=lambda: answers.append(httpx.get(url, timeout=10)))
            asking.start()
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert process.poll() is None
            holder.rollback()
        asking.join()
        assert process.wait(5) in (0, -signal.SIGTERM)  # uvicorn ends by the signal it handled
    assert answers[0].json()["features"]["monthly_fee"] == 1 / 7
    for line in log.read_text().splitlines():
        json.loads(line)  # uvicorn's lines as well


def test_several_workers_count_together(
    online: Database, free_port: Callable[[], int], tmp_path: Path
) -> None:
    port, log = free_port(), tmp_path / "log"
    with api(online, port, log, "--workers", "2", refresh=0.5):
        url = f"http://127.0.0.1:{port}"
        for _ in range(40):
            assert httpx.get(f"{url}/features/u00001").status_code == 200  # a connection each
        text = httpx.get(f"{url}/metrics").text
    counted = [
        line
        for line in text.splitlines()
        if line.startswith("streamflow_requests_total{") and 'status="200"' in line
        if 'route="/features/{user_id}"' in line
    ]
    assert [float(line.split()[-1]) for line in counted] == [40]


def test_a_body_that_dawdles_or_lies_about_its_size_is_cut_off(
    quick_api: int,
) -> None:
    port = quick_api
    head = (
        b"POST /features HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), 3) as slow:
        slow.sendall(head + b"1\r\n{\r\n")
        started = time.monotonic()
        assert b" 408 " in slow.recv(4096)
        assert time.monotonic() - started < 1
    with socket.create_connection(("127.0.0.1", port), 3) as large:
        large.sendall(head + b"50000\r\n" + b" " * 0x50000 + b"\r\n")
        assert b" 413 " in large.recv(4096)
        # And nobody listens to the rest of it.
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 256:
                large.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
                sent += 1
                time.sleep(0.001)
        assert sent < 256


def test_more_reads_than_may_wait_are_refused_at_once(online: Database) -> None:
    async def run() -> None:
        settings = Settings(connections=1, waiting=3, timeout=0.5)
        async with running(create_app(settings, online)) as client:
            assert (await client.get("/features/u00001")).status_code == 200
            with psycopg.connect(online.conninfo()) as holder:
                holder.execute("lock table online.plan_features in access exclusive mode")
                first = asyncio.create_task(client.get("/features/u00001"))
                await asyncio.sleep(0.1)  # it is with the database now
                started = time.monotonic()
                rest = await asyncio.gather(*(client.get("/features/u00001") for _ in range(8)))
                took = time.monotonic() - started
                answers = [await first, *rest]
            kinds = [a.json()["type"].removeprefix("/docs#problem-") for a in answers]
            assert kinds.count("overloaded") == 5
            assert kinds.count("store-unavailable") == 4
            assert took < 0.8
            await asyncio.sleep(0.3)
            assert (await client.get("/features/u00001")).status_code == 200

    asyncio.run(run())
