"""GET /features/<user_id> against `feast serve`, a naive route and a constant one.

One server, one worker each, the same users and values; all run at once, and are asked in turn, so
that whatever slows the machine slows all. Medians of the rounds. Last line: one JSON object, at 8
connections (1 and 32 under `detail`). Load is made by wrk, or by Python where wrk is missing.

    rps                          this API, one user a request, all features
    feast_serve_rps              `feast serve` as it comes, on its stock Postgres online store
    naive_rps                    a FastAPI route that calls get_online_features of the same store
    constant_rps                 a FastAPI route that returns one of our answers, as a constant
    ratio_vs_feast_serve         wanted: at least 15
    ratio_vs_feast_tuned         feature references, no worker recycling, a pool, no access log;
                                 wanted: at least 10
    ratio_vs_constant            wanted: at least 0.75
    p99_ratio_vs_feast_serve     wanted: at most 0.1
    batch100_ratio_vs_feast_serve  users a second in batches of 100; wanted: at least 25
    publish_p99_ratio            99th percentile while every online row is replaced / without;
                                 wanted: at most 3
    errors                       of this API; wanted: 0

`cpu_us` under `detail` is the processor time of the server's own processes a request, without
Postgres: it hardly changes on a machine that is busy with other things, where rates do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench import load, published  # noqa: E402

NAIVE = """
from fastapi import FastAPI
from feast import FeatureStore

store = FeatureStore(repo_path={repo!r})
app = FastAPI()


@app.get("/features/{{user_id}}")
def features(user_id: str) -> dict:
    return store.get_online_features(
        features=store.get_feature_service("all_features"), entity_rows=[{{"user_id": user_id}}]
    ).to_dict()
"""
CONSTANT = """
from fastapi import FastAPI

app = FastAPI()
ANSWER = {answer!r}


@app.get("/features/{{user_id}}")
async def features(user_id: str) -> dict:
    return ANSWER
"""
YAML = """
project: stock
provider: local
registry: {folder}/stock.db
entity_key_serialization_version: 3
offline_store: &place
  type: postgres
  host: {host}
  port: {port}
  database: {database}
  db_schema: stock
  user: {user}
  password: {password}
  sslmode: disable
online_store:
  <<: *place
  conn_type: {connection}
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32])
    return parser.parse_args()


def user(number: int) -> str:
    return f"user-{number:08}"


def stock_store(folder: Path) -> None:
    """Stock Feast's online tables, with the rows of ours.

    Written by COPY: Feast itself would take minutes, and what it writes is the same.
    """
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    from data.database import Database
    from streamflow_feast.kinds import to_value

    published.stock(folder)
    settings = Database()
    with settings.connect() as reading, settings.connect() as writing:
        for name, columns in published.VIEWS.items():
            rows = reading.execute(
                f"select user_id, as_of, {', '.join(columns)} from online.{name}"
            )
            with writing.cursor().copy(
                f"copy stock.stock_{name} (entity_key, feature_name, value, event_ts) from stdin"
            ) as copy:
                for user_id, as_of, *values in rows:
                    key = serialize_entity_key(
                        EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user_id)]),
                        entity_key_serialization_version=3,
                    )
                    for (column, kind), value in zip(columns.items(), values, strict=True):
                        copy.write_row(
                            (key, column, to_value(kind, value).SerializeToString(), as_of)
                        )
    with contextlib.closing(settings.connect()) as connection:
        connection.autocommit = True
        connection.execute("vacuum analyze")
    for kind in ("singleton", "pool"):
        repo = folder / kind
        repo.mkdir()
        (repo / "feature_store.yaml").write_text(
            YAML.format(
                folder=folder,
                connection=kind,
                password=settings.password.get_secret_value(),
                **settings.model_dump(include={"host", "port", "database", "user"}),
            )
        )


@contextlib.contextmanager
def process(name: str, path: str, folder: Path, *command: str) -> Iterator[tuple[int, int]]:
    """A server process; its port and pid, once `path` answers. The port replaces `{port}`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        running = subprocess.Popen(
            [sys.executable, "-m", *(part.replace("{port}", str(port)) for part in command)],
            stdout=out,
            stderr=out,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
        )
    try:
        for _ in range(600):
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}"),
            ):
                break
            if running.poll() is not None:
                raise SystemExit(f"{name} did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
        yield port, running.pid
    finally:
        running.terminate()
        running.wait(30)


def cpu_seconds(pid: int) -> float:
    """Of a process, of its living children, and of those that ended."""
    top = psutil.Process(pid)
    return sum(top.cpu_times()[:4]) + sum(
        sum(child.cpu_times()[:2]) for child in top.children(recursive=True)
    )


def answer(port: int, request: bytes) -> dict:
    """The JSON answer to one request."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(request.replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        data = b""
        while part := connection.recv(65536):
            data += part
    return json.loads(data.split(b"\r\n\r\n", 1)[1])


def same_values(ours: dict, feast: dict) -> bool:
    """Whether both say the same about the user."""
    names = feast["metadata"]["feature_names"]
    told = {n: r["values"][0] for n, r in zip(names, feast["results"], strict=True)}
    told.pop("user_id")
    return told == ours["features"]


def main() -> None:
    asked = arguments()
    with tempfile.TemporaryDirectory(prefix="streamflow-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with published.server(folder), contextlib.ExitStack() as servers:
            published.make_tables("serving", published.VIEWS, asked.users, 1)
            store = published.quiet(published.ours)
            published.quiet(lambda: store.materialize_incremental(published.END))
            published.quiet(lambda: stock_store(folder))
            published.floor_tables(published.VIEWS)  # `change` takes its users from there
            published.say("both online stores are filled")
            ports, sent = start(servers, folder), requests(asked.users)
            found = measure(asked, ports, sent)
            found |= while_publishing(asked, store, ports["ours"][0], sent["ours"])
    print(json.dumps(found))


def start(servers: contextlib.ExitStack, folder: Path) -> dict[str, tuple[int, int]]:
    """All servers, each with one worker; name -> port and pid."""

    def run(name: str, path: str, *command: str) -> tuple[int, int]:
        return servers.enter_context(process(name, path, folder, *command))

    ports = {"ours": run("ours", "/ready", "serving", "--port", "{port}")}
    example = answer(ports["ours"][0], load.get(f"/features/{user(1)}"))
    (folder / "naive.py").write_text(NAIVE.format(repo=str(folder / "singleton")))
    (folder / "constant.py").write_text(CONSTANT.format(answer=example))
    feast = ["feast.cli.cli", "-c"]
    ports["feast"] = run(
        "feast", "/health", *feast, str(folder / "singleton"), "serve", "-p", "{port}"
    )
    tuned = ["--no-access-log", "--max-requests", "0", "--registry_ttl_sec", "3600"]
    ports["tuned"] = run(
        "tuned", "/health", *feast, str(folder / "pool"), "serve", "-p", "{port}", *tuned
    )
    plain = ["--port", "{port}", "--no-access-log", "--log-level", "warning"]
    for name in ("naive", "constant"):
        ports[name] = run(name, f"/features/{user(1)}", "uvicorn", f"{name}:app", *plain)
    return ports


def requests(users: int) -> dict[str, list[bytes]]:
    """Requests of each server, about users drawn at random (the same for all)."""
    draw = random.Random(1)
    ones = [user(draw.randint(1, users)) for _ in range(2000)]
    hundreds = [[user(draw.randint(1, users)) for _ in range(100)] for _ in range(100)]
    references = [f"{view}:{c}" for view, columns in published.VIEWS.items() for c in columns]

    def feast(ids: list[str], which: dict) -> bytes:
        return load.post("/get-online-features", {**which, "entities": {"user_id": ids}})

    service, features = {"feature_service": "all_features"}, {"features": references}
    gets = [load.get(f"/features/{one}") for one in ones]
    return {
        "ours": gets,
        "feast": [feast([one], service) for one in ones],
        "tuned": [feast([one], features) for one in ones],
        "naive": gets,
        "constant": gets,
        "ours, 100": [load.post("/features", {"user_ids": ids}) for ids in hundreds],
        "feast, 100": [feast(ids, service) for ids in hundreds],
        "tuned, 100": [feast(ids, features) for ids in hundreds],
    }


def measure(
    asked: argparse.Namespace,
    servers: dict[str, tuple[int, int]],
    sent: dict[str, list[bytes]],
) -> dict:
    for place in range(20):
        told = [answer(servers[name][0], sent[name][place]) for name in ("ours", "feast", "tuned")]
        assert same_values(told[0], told[1]), told[:2]
        assert same_values(told[0], told[2]), told
    taken: dict[tuple[str, int], list[tuple[load.Result, float]]] = {}
    for turn in range(asked.rounds):
        for connections in asked.connections:
            for name, what in sent.items():
                port, pid = servers[name.removesuffix(", 100")]
                if not turn:
                    load.run(port, what, connections, 1)  # warm
                before = cpu_seconds(pid)
                result = load.run(port, what, connections, asked.seconds)
                requests_made = max(result.rps * asked.seconds, 1)
                cpu = (cpu_seconds(pid) - before) / requests_made * 1e6
                taken.setdefault((name, connections), []).append((result, cpu))
                published.say(
                    f"{name:>10} {connections:>3} connections: {result.rps:>8,.0f}/s, "
                    f"p50 {result.p50:.2f} ms, p99 {result.p99:.2f} ms, {result.errors} errors, "
                    f"{cpu:,.0f} us of processor time each"
                )
    detail = {
        f"{name} at {connections}": {
            "rps": round(statistics.median(r.rps for r, _ in results), 1),
            "p50_ms": round(statistics.median(r.p50 for r, _ in results), 2),
            "p99_ms": round(statistics.median(r.p99 for r, _ in results), 2),
            "errors": sum(r.errors for r, _ in results),
            "cpu_us": round(statistics.median(cpu for _, cpu in results)),
        }
        for (name, connections), results in taken.items()
    }
    at = 8 if 8 in asked.connections else asked.connections[0]
    rps = {name: detail[f"{name} at {at}"]["rps"] for name in sent}
    p99 = {name: detail[f"{name} at {at}"]["p99_ms"] for name in sent}
    return {
        "rps": rps["ours"],
        "feast_serve_rps": rps["feast"],
        "naive_rps": rps["naive"],
        "constant_rps": rps["constant"],
        "ratio_vs_feast_serve": round(rps["ours"] / rps["feast"], 1),
        "ratio_vs_feast_tuned": round(rps["ours"] / rps["tuned"], 1),
        "ratio_vs_constant": round(rps["ours"] / rps["constant"], 2),
        "p99_ratio_vs_feast_serve": round(p99["ours"] / p99["feast"], 3),
        "batch100_ratio_vs_feast_serve": round(rps["ours, 100"] / rps["feast, 100"], 1),
        "errors": sum(found["errors"] for name, found in detail.items() if name.startswith("ours")),
        "detail": detail,
        "users": asked.users,
        "load": load.generator(),
    }


def while_publishing(
    asked: argparse.Namespace, store: Any, port: int, sent: list[bytes]
) -> dict[str, float]:
    """How much later answers come while all online rows are replaced, at 8 connections."""
    found: dict[bool, list[load.Result]] = {False: [], True: []}
    took: list[float] = []

    def materialize() -> None:
        began = time.perf_counter()
        store.materialize_incremental(published.END)
        took.append(time.perf_counter() - began)

    for _ in range(asked.rounds):
        published.change(published.VIEWS, 1000)
        for publishing in (False, True):
            published.checkpoint()
            work = threading.Thread(target=materialize)
            if publishing:
                work.start()
            found[publishing].append(load.run(port, sent, 8, 2))
            if publishing:
                work.join()
            last = found[publishing][-1]
            published.say(
                f"{'while' if publishing else 'without'} publishing: p99 {last.p99:.2f} ms"
            )
    middle = {each: statistics.median(result.p99 for result in of) for each, of in found.items()}
    return {
        "publish_p99_ratio": round(middle[True] / middle[False], 2),
        "publish_errors": sum(result.errors for result in found[True]),
        "publish_s": round(statistics.median(took), 2),  # the load lasts 2 s of it
    }


if __name__ == "__main__":
    main()
