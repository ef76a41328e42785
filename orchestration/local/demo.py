"""`make demo`: the whole path once, from sample drops to an answer of the API."""

from __future__ import annotations

import fcntl
import json
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from data.__main__ import main as data_command
from data.__main__ import up
from data.database import Database, is_loopback
from data.paths import DROPS, ROOT
from data.postgres.server import EmbeddedServer, state_folder
from orchestration import steps
from orchestration.catalogue.command import catalogue
from orchestration.defs import dagster_ui
from orchestration.local import background
from orchestration.steps import say
from serving.settings import Settings

API, DOCS = "api", "dbt-docs"


class _Headings:
    """Numbers the steps and times them."""

    def __init__(self, total: int) -> None:
        self.total, self.number, self.began = total, 0, time.monotonic()

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        self.number += 1
        say(f"\n[{self.number}/{self.total}] {title}")
        began = time.monotonic()
        yield
        say(f"  done in {time.monotonic() - began:.1f} s")


class DemoError(RuntimeError):
    """Something else is in the demo's way; the text says what, and what to do."""


def demo() -> None:
    """Run every step and leave the database, the API and dbt's documentation running.

    Raises:
        DemoError: something is in the way, found before anything was done.
    """
    with _alone():
        _require_free_ports()
        _demo()


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the folder for one demo at a time; the lock ends with this process."""
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(
                "A demo is under way in this folder already. Wait for it, or end it with Ctrl-C"
            ) from None
        yield


def _require_free_ports() -> None:
    """What listens where the demo will must be its own, of an earlier run."""
    settings, api = Database(), Settings()
    if is_loopback(settings.host) and EmbeddedServer(settings).postmaster() is None:
        where = f"{settings.host}:{settings.port}"
        if _listens(settings.host, settings.port):
            raise DemoError(
                f"{where} is taken, and not by the database of this folder ({state_folder()}). "
                "Stop what listens there (make down in its folder; a Postgres whose .state was "
                "deleted ends by itself within two minutes), or choose a free port: export "
                "STREAMFLOW_PG_PORT=15433. To work on that Postgres: make up pipeline"
            )
    if _listens("127.0.0.1", api.port) and not background.runs(API):
        raise DemoError(
            f"127.0.0.1:{api.port} is taken by another program, and the API needs it. Stop that "
            "program (make serve, perhaps, or a demo in another folder), or choose a free port: "
            "export STREAMFLOW_API_PORT=8001"
        )


def _listens(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.settimeout(2)
        return probe.connect_ex((host, port)) == 0


def _demo() -> None:
    step = _Headings(9).step
    with step("Database: Postgres from a wheel, in .state"):
        say(f"  {up(Database())}")
    with step("Sample drops: 2,000 users, 6 months"):
        drops = sample_drops()
        say(f"  {len(drops)} drops in {shown(DROPS)}")
    with step("Load: check the drops, copy them into raw"):
        for drop in drops:
            loaded = steps.ingest(drop, show=lambda table: None)
            added = sum(table.added for table in loaded.tables.values())
            repeated = sum(table.repeated for table in loaded.tables.values())
            say(f"  {drop.name}: {added:,} rows added, {repeated:,} known already")
    with step("dbt build: features by as_of, tested, then published"):
        steps.build()
    with step("feast apply: feature views read from dbt's manifest"):
        steps.apply()
    with step("feast materialize-incremental: published features to the online store"):
        steps.materialize()
        steps.audit()
    with step("Training set: point-in-time features and labels of the newest snapshot"):
        say(str(steps.training_set([drops[-1].name])))
    with step("dbt docs and the catalogue: lineage from raw drop to API"):
        steps.docs()
        docs = start_docs()
        say(f"  {catalogue()} features in the catalogue")
    with step("API"):
        address = start_api()
        user = a_user()
        say(f"  listening at {address}")
    say(summary(address, user, docs))


def sample_drops() -> list[Path]:
    """The drops that are there, oldest first; a generated sample where there is none yet."""
    if not steps.drops(DROPS) and data_command(["generate", "--to", str(DROPS)]):
        raise steps.StepError("generate", f"no sample drops in {DROPS}", "make generate")
    return steps.drops(DROPS)


def start_api() -> str:
    """The API in the background; its address once it is ready."""
    settings = Settings()
    address = f"http://127.0.0.1:{settings.port}"
    background.start(API, [sys.executable, "-m", "serving"], f"{address}/ready")
    return address


def start_docs() -> str:
    """What `dbt docs serve` shows, at the address the API's page links to; else the file of it."""
    url = Settings().docs_url
    where = urlsplit(url)
    if where.scheme != "http" or not is_loopback(where.hostname or ""):
        say(f"  STREAMFLOW_API_DOCS_URL is {url}, which is not this machine: not served here")
        return shown(steps.target() / "static_index.html")
    port = where.port or 80
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    try:
        background.start(DOCS, [*command, "--directory", str(steps.target())], url)
    except background.BackgroundError as error:  # a port like 8080 is often taken
        say(f"  not served: {error}")
        return shown(steps.target() / "static_index.html")
    say(f"  served at {url}")
    return url


def down() -> None:
    """Stop everything that `make demo`, `make up` or `make dagster` left running."""
    for name in (API, DOCS):
        if background.stop(name):
            say(f"{name} stopped")
    if dagster_ui.stop():
        say("Dagster stopped")
    stopped = EmbeddedServer(Database()).stop()
    say("Postgres stopped" if stopped else "Postgres was not running")


def a_user() -> str:
    """A user whom the online store knows, if possible one who watches."""
    with Database().connect() as connection:
        row = connection.execute(
            "select user_id from online.usage_features"
            " order by watch_hours_30d > 0 desc nulls last, user_id limit 1"
        ).fetchone()
    assert row is not None
    return str(row[0])


def summary(address: str, user: str, docs: str) -> str:
    """What runs where, and the API's real answer for a user."""
    url = f"{address}/features/{user}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        body = json.dumps(json.load(answer), indent=2)
    return f"""
$ curl {url.replace("http://127.0.0.1", "localhost")}
{body}

  The API for people      {address}/
  Catalogue of features   {address}/browse
  Its reference           {address}/docs
  dbt's docs and lineage  {docs}
  Training set            data/processed/training_df.csv
  One user through Feast  make vector USER={user}
  Stop everything         make down
"""


def shown(path: Path) -> str:
    """A path as a person in the checkout would type it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
