"""The API as an operator meets it: who may ask, outages, logs, metrics, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from data.database import Database
from data.server import EmbeddedServer
from data.setup import set_up
from serving.main import create_app
from serving.settings import Keys, Settings, SettingsError
from tests.serving.hand_made import fill, running
from tests.serving.processes import ROOT, Load, api, environment

Ask = Callable[..., list[httpx.Response]]
KEYS = {"keys": "first-key-0123456789,second-key-0123456789"}


# ---- who may ask


def test_without_a_key_configured_only_this_machine_is_served(ask: Ask) -> None:
    """A foreign Host is a web page whose name resolves to 127.0.0.1, a foreign server address
    is a process that was started on another interface past our own check."""
    for url, status in (
        ("http://127.0.0.1:8000/features/u00001", 200),
        ("http://localhost:8000/features/u00001", 200),
        ("http://[::1]:8000/features/u00001", 200),
        ("http://10.1.2.3:8000/features/u00001", 403),
        ("http://evil.example/features/u00001", 403),
        ("http://localhost.evil.example/features/u00001", 403),
        ("http://10.1.2.3:8000/health", 403),
    ):
        [answer] = ask(("GET", url))
        assert answer.status_code == status, url
    [rebound] = ask(("GET", "http://127.0.0.1/features/u00001", {"headers": {"host": "evil.com"}}))
    assert rebound.status_code == 403


def test_with_keys_configured_every_path_with_data_needs_one(ask: Ask) -> None:
    paths = ["/features/u00001", "/catalogue", "/metrics", "/examples", "/distributions"]
    paths += ["/features/u00001/history", "/nothing"]
    refused = ask(*(("GET", path) for path in paths), **KEYS)
    assert [a.status_code for a in refused] == [401] * len(paths)
    assert {a.headers["www-authenticate"] for a in refused} == {"Bearer"}
    assert ask(("POST", "/-/reload"), **KEYS)[0].status_code == 401
    assert ask(("POST", "/features", {"json": {"user_ids": ["a"]}}), **KEYS)[0].status_code == 401
    open_paths = ask(*(("GET", p) for p in ("/", "/docs", "/health", "/ready")), **KEYS)
    assert [a.status_code for a in open_paths] == [200] * 4


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": "Bearer first-key-0123456789"}, 200),
        ({"authorization": "bearer second-key-0123456789"}, 200),
        ({"x-api-key": "second-key-0123456789"}, 200),
        ({"authorization": "Basic first-key-0123456789"}, 401),
        ({"authorization": "Bearer first-key-012345678"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"x-api-key": KEYS["keys"]}, 401),
    ],
)
def test_any_of_the_keys_opens(ask: Ask, headers: dict[str, str], status: int) -> None:
    [answer] = ask(("GET", "http://10.1.2.3/features/u00001", {"headers": headers}), **KEYS)
    assert answer.status_code == status


def test_keys_in_a_file_rotate_without_a_restart(online: Database, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# team a\nold-key-0123456789abc\n")

    async def run() -> None:
        settings = Settings(keys_file=file, refresh=60)
        async with running(create_app(settings, online)) as client:

            async def status(key: str) -> int:
                headers = {"x-api-key": key}
                return (await client.get("/catalogue", headers=headers)).status_code

            old, new = "old-key-0123456789abc", "new-key-0123456789abc"
            assert [await status(old), await status(new)] == [200, 401]
            file.write_text(f"{new}\n")
            await client.post("/-/reload", headers={"x-api-key": old})
            assert [await status(old), await status(new)] == [401, 200]
            file.unlink()  # a lost file must not open the door, nor close it
            await client.post("/-/reload", headers={"x-api-key": new})
            assert [await status(old), await status(new)] == [401, 200]

    asyncio.run(run())


def test_a_comparison_does_not_stop_at_the_first_match(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the time of an answer would tell how many keys were tried."""
    compared: list[bytes] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(b)
        assert len(a) == len(b)
        return a == b

    monkeypatch.setattr("serving.settings.hmac.compare_digest", compare)
    keys = Keys(Settings(**KEYS))
    assert keys.name_of(b"first-key-0123456789")
    assert len(compared) == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": "0.0.0.0"}, "without an API key"),
        ({"host": "::"}, "without an API key"),
        ({"host": "example.com"}, "without an API key"),
        ({"host": "0.0.0.0", "keys": "short"}, "fewer than 16"),
        ({"host": "0.0.0.0", "keys_file": "/nonexistent"}, "No such file"),
        ({"host": "127.0.0.1", "keys": "short"}, "fewer than 16"),
    ],
)
def test_it_refuses_to_start_in_the_open(
    online: Database, settings: dict[str, str], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        Settings(**settings).check()
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from serving.__main__ import main; sys.exit(main([]))"],
        env=environment(online, **settings),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_it_starts_in_the_open_with_a_key() -> None:
    Settings(host="0.0.0.0", **KEYS).check()
    Settings(host="localhost").check()
    Settings(host="127.0.0.2").check()


# ---- one process through its life


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
        import shutil

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


# ---- limits


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


# ---- what it tells


def test_metrics_tell_what_happened(ask: Ask) -> None:
    def metrics(answer: httpx.Response) -> dict[str, float]:
        lines = [x for x in answer.text.splitlines() if not x.startswith("#")]
        return {name: float(value) for name, value in (x.rsplit(" ", 1) for x in lines)}

    first, *_, last = ask(
        ("GET", "/metrics"),
        ("GET", "/features/u00001"),
        ("GET", "/features/nobody"),
        ("POST", "/features", {"json": {"user_ids": ["u00001", "nobody"]}}),
        ("GET", "/features/u00001?as_of=x"),
        ("GET", "/metrics"),
    )
    assert last.headers["content-type"].startswith("text/plain; version=0.0.4")
    before, after = metrics(first), metrics(last)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    one = 'method="GET",route="/features/{user_id}"'
    assert grown(f'streamflow_requests_total{{{one},status="200"}}') == 2
    assert grown(f'streamflow_requests_total{{{one},status="400"}}') == 1
    assert grown('streamflow_request_seconds_count{route="/features"}') == 1
    assert grown("streamflow_store_seconds_count") == 3
    assert grown('streamflow_users_total{service="all_features"}') == 4
    assert grown('streamflow_unknown_users_total{service="all_features"}') == 2
    year = 60 * 60 * 24 * 365
    assert after['streamflow_features_age_seconds{view="plan_features"}'] > year
    assert after['streamflow_features_age_seconds{view="fresh_features"}'] < 600
    assert after["streamflow_store_up"] == 1
    assert after["streamflow_registry_version"] == 1


def test_a_log_line_names_the_request_and_no_user(ask: Ask, capsys: Any) -> None:
    headers = {"x-request-id": "trace-7", "x-api-key": "first-key-0123456789"}
    chosen, made_up = ask(
        ("GET", "/features/u00042", {"headers": headers}),
        ("GET", "/features/nobody", {"headers": headers | {"x-request-id": "bad id\t"}}),
        **KEYS,
    )
    output = capsys.readouterr().out
    lines = [json.loads(line) for line in output.splitlines()]
    [line] = [line for line in lines if line.get("request_id") == "trace-7"]
    assert chosen.headers["x-request-id"] == "trace-7"
    assert (line["route"], line["status"], line["users"]) == ("/features/{user_id}", 200, 1)
    assert line["ms"] > 0
    assert len(line["key"]) == 8
    assert len(made_up.headers["x-request-id"]) == 16
    assert "u00042" not in output
    assert "first-key" not in output


def test_a_defect_shows_nothing_of_itself(
    online: Database, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr("serving.answers.Answers.one", fail)

    async def run() -> httpx.Response:
        async with running(create_app(Settings(), online)) as client:
            return await client.get("/features/u00001")

    answer = asyncio.run(run())
    assert (answer.status_code, answer.json()["type"]) == (500, "/docs#problem-internal")
    assert "hunter2" not in answer.text
    log = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    [defect] = [line for line in log if "exception" in line]
    assert "hunter2" in defect["exception"]
    assert defect["request_id"] == answer.json()["request_id"]


def test_uvicorn_alone_serves_the_app(
    online: Database, free_port: Callable[[], int], tmp_path: Path
) -> None:
    """`uvicorn serving.main:app`, as the README says; on all interfaces it still serves only us."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "serving.main:app", "--host", "0.0.0.0"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            env=environment(online),
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    try:
        client = httpx.Client(transport=httpx.HTTPTransport(retries=8), timeout=10)
        answer = client.get(f"http://127.0.0.1:{port}/features/u00001")
        assert answer.json()["found"] is True
        addresses = [
            a.address
            for interface in psutil.net_if_addrs().values()
            for a in interface
            if a.family == socket.AF_INET and not a.address.startswith("127.")
        ]
        for address in addresses:  # none in a container without a network
            assert client.get(f"http://{address}:{port}/features/u00001").status_code == 403
            host = {"host": "127.0.0.1"}
            told = client.get(f"http://{address}:{port}/features/u00001", headers=host)
            assert told.status_code == 403
    finally:
        process.terminate()
        process.wait(10)
