"""Who may ask: loopback, keys, and how the process refuses to stand open."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from data.database import Database
from serving.main import create_app
from serving.settings import Keys, Settings, SettingsError
from tests.serving.hand_made import running
from tests.serving.processes import ROOT, environment

Ask = Callable[..., list[httpx.Response]]
KEYS = {"keys": "first-key-0123456789,second-key-0123456789"}


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


def test_no_settings_show_a_secret() -> None:
    """They end up in a debugger's view, a log line, an error report."""
    settings = Settings(**KEYS)
    shown = [repr(settings), str(settings), settings.model_dump_json(), repr(vars(settings))]
    assert not [text for text in shown if "first-key" in text]
    assert Keys(settings)


def test_a_keys_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes("schlüssel-0123456789".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"is not UTF-8 \(byte 5\)"):
        Keys(Settings(keys_file=file))


@pytest.mark.parametrize("url", ["localhost:8080", "http://", "127.0.0.1", "ftp://x/"])
def test_an_address_of_the_docs_that_is_none_is_told(url: str) -> None:
    with pytest.raises(ValueError, match="is no address; expected one such as http"):
        Settings(docs_url=url)
    assert Settings(docs_url="http://docs.example/").docs_url


def test_head_is_answered_as_get_without_the_body(ask: Ask) -> None:
    """What watches a service often asks with HEAD."""
    paths = ["/health", "/ready", "/metrics", "/catalogue", "/", "/docs", "/examples"]
    paths += ["/features/u00001", "/features/u00001/history", "/distributions", "/openapi.json"]
    paths += ["/static/page.js"]
    for path in paths:
        head, get = ask(("HEAD", path), ("GET", path))
        assert (head.status_code, head.content) == (200, b""), path
        if path != "/metrics":
            assert head.headers["content-length"] == get.headers["content-length"], path
    for path in ("/nothing", "/features", "/features/%00"):
        head, get = ask(("HEAD", path), ("GET", path))
        assert (head.status_code, head.content) == (get.status_code, b"")
    [wrong] = ask(("DELETE", "/health"))
    assert wrong.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_uvicorn_behind_a_prefix_and_with_workers(
    online: Database, free_port: Callable[[], int], tmp_path: Path, workers: str
) -> None:
    """`--root-path`, `--workers`, and our own setting for them: open paths stay open, ids keep
    their slashes, and every worker's requests are counted, whichever answers."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "serving.main:app", "--root-path", "/api"]
    command += ["--port", str(port), "--workers", workers, "--timeout-worker-healthcheck", "60"]
    keys = KEYS["keys"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=environment(online, keys=keys, workers=2),
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: _status(f"{url}/health") == 200)
        assert _status(f"{url}/ready") == 200
        assert _status(f"{url}/features/u00001") == 401
        key = {"x-api-key": "first-key-0123456789"}
        for _ in range(20):  # a connection each: any worker
            answer = httpx.get(f"{url}/features/a%2Fhistory", headers=key)
            assert answer.json()["user_id"] == "a/history"
        past = httpx.get(f"{url}/features/a%2Fb/history", headers=key)
        assert past.json()["user_id"] == "a/b"
        line = (
            'streamflow_requests_total{method="GET",route="/features/{user_id}",status="200"} 20.0'
        )
        # A request is counted after its answer was sent.
        until(lambda: line in httpx.get(f"{url}/metrics", headers=key).text, 10)
    finally:
        process.terminate()
        process.wait(20)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _status(url: str) -> int:
    try:
        return httpx.get(url, timeout=5).status_code
    except httpx.TransportError:
        return 0


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
