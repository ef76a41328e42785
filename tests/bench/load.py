"""Load on an HTTP server: wrk (Debian's package), or the same in Python where it is missing."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

LUA = """
local bodies = {}
for line in io.lines("%s") do table.insert(bodies, line) end
local turn = %d
request = function()
  turn = turn %% #bodies + 1
  return bodies[turn]
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"requests": %%d, "seconds": %%f, "p50": %%f, "p99": %%f, "errors": %%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class Result(NamedTuple):
    """Answers a second, latencies in milliseconds, and how many requests went wrong."""

    rps: float
    p50: float
    p99: float
    errors: int


def generator() -> str:
    """What makes the load here."""
    return "wrk" if shutil.which("wrk") else "python"


def run(port: int, requests: Sequence[bytes], connections: int, seconds: int) -> Result:
    """Send `requests` in turn, over and over, on kept-open connections; every non-2xx is an error.

    A request is all of its bytes, without a line feed of its own (its line ends are spelled out).
    """
    if generator() == "wrk":
        return _wrk(port, requests, connections, seconds)
    return asyncio.run(_python(port, requests, connections, seconds))


def get(path: str) -> bytes:
    """A GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def post(path: str, body: object) -> bytes:
    """A POST request with a JSON body."""
    data = json.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n{data}".encode()


def _wrk(port: int, requests: Sequence[bytes], connections: int, seconds: int) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        # Lua reads a request a line; \x01 cannot occur in one and stands for CR LF.
        lines = Path(folder) / "requests"
        lines.write_bytes(b"\n".join(r.replace(b"\r\n", b"\x01") for r in requests) + b"\n")
        script = Path(folder) / "load.lua"
        text = LUA % (lines, time.time_ns() % len(requests))
        text = text.replace("insert(bodies, line)", 'insert(bodies, (line:gsub("\\1", "\\r\\n")))')
        script.write_text(text)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
        done = subprocess.run(
            [*command, "-s", str(script), f"http://127.0.0.1:{port}"],
            check=True,
            capture_output=True,
            text=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
    return Result(found["requests"] / found["seconds"], found["p50"], found["p99"], found["errors"])


async def _python(port: int, requests: Sequence[bytes], connections: int, seconds: int) -> Result:
    took: list[float] = []
    errors = 0
    start = time.perf_counter()

    async def client(turn: int) -> None:
        nonlocal errors
        connection = None
        while (began := time.perf_counter()) < start + seconds:
            turn += connections
            try:
                if connection is None:
                    connection = await asyncio.open_connection("127.0.0.1", port)
                reader, writer = connection
                writer.write(requests[turn % len(requests)])
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                errors += head.split(b" ", 2)[1][:1] != b"2"
                took.append(time.perf_counter() - began)
            except (OSError, asyncio.IncompleteReadError):
                errors += 1
                connection = None

    await asyncio.gather(*(client(i) for i in range(connections)))
    elapsed = time.perf_counter() - start
    took.sort()
    at = [took[int(len(took) * q)] * 1000 if took else 0.0 for q in (0.5, 0.99)]
    return Result(len(took) / elapsed, *at, errors)
