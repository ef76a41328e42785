"""Fixtures of the Feast tests; the tables are hand-made, see offline.py."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from data.database import Database
from tests.feast.offline import Offline
from tests.feast.runs import materialize

ROOT = Path(__file__).resolve().parents[2]
REPO = ROOT / "feature_repo"


@pytest.fixture
def offline(database: Database, target: Path) -> Offline:
    """Feature tables of a few views, defined, nothing published yet."""
    offline = Offline(database, target)
    offline.define()
    return offline


@pytest.fixture
def now() -> datetime:
    return datetime.now(timezone.utc)


@pytest.fixture
def store(offline: Offline):
    """The project's feature store with these views applied."""
    from feast import FeatureStore

    from streamflow_feast.dbt.feast_objects import apply_definitions

    store = FeatureStore(repo_path=str(REPO))
    apply_definitions(store)
    return store


class Run:
    """A process that brings everything online; its output is kept."""

    def __init__(self, output: Path, end: str) -> None:
        context = multiprocessing.get_context("forkserver")
        # Feast takes seconds to import: once, in the server that the runs are forked from.
        context.set_forkserver_preload(
            ["feast", "streamflow_feast.materialize.engine", "tests.feast.runs"]
        )
        self.path = output
        self.process = context.Process(
            target=materialize, args=(dict(os.environ), str(REPO), end, str(output))
        )
        self.process.start()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.join()

    def finish(self) -> tuple[int | None, str]:
        """Exit code and output of the run, when it has ended."""
        self.process.join(60)
        return self.process.exitcode, self.path.read_text()


@pytest.fixture
def start_run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Starts processes that materialize everything; what still runs is killed after the test."""
    runs: list[Run] = []

    def start(end: str = "2024-12-31T00:00:00+00:00") -> Run:
        runs.append(Run(tmp_path / f"run-{len(runs)}.txt", end))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()
