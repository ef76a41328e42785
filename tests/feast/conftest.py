"""Fixtures of the Feast tests; the tables are hand-made, see offline.py."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from data.database import Database
from tests.feast.offline import Offline

ROOT = Path(__file__).resolve().parents[2]
REPO = ROOT / "feature_repo"

# Runs in a process of its own, to be killed: brings everything online up to an end date.
MATERIALIZE = """
import sys
from datetime import datetime
from feast import FeatureStore
store = FeatureStore(repo_path=sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
store.materialize_incremental(datetime.fromisoformat(sys.argv[2]))
print("done", flush=True)
"""


@pytest.fixture
def offline(database: Database, target: Path) -> Offline:
    """Feature tables of three views, defined, nothing published yet."""
    offline = Offline(database, target)
    offline.define()
    return offline


@pytest.fixture
def now() -> datetime:
    return datetime.now(timezone.utc)


@pytest.fixture
def store(offline: Offline):
    """The project's feature store with the three views applied."""
    from feast import FeatureStore

    from feature_repo.feast_objects import apply_definitions

    store = FeatureStore(repo_path=str(REPO))
    apply_definitions(store)
    return store


@pytest.fixture
def materializer() -> Callable[..., subprocess.Popen]:
    """Starts a process that materializes when it gets a line; ended with the test."""
    started: list[subprocess.Popen] = []

    def start(end: str = "2024-12-31T00:00:00+00:00", repo: Path = REPO) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", MATERIALIZE, str(repo), end],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=os.environ.copy(),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
