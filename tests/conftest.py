"""What all tests share: one database server of their own, and databases that start out known.

The server runs on a free port under a temporary folder, so that the tests may run beside a demo,
a production setting in the environment, or another run of the tests. Every test that asks for
`database` or `sample` gets a fresh copy under the project's usual database name, and nothing of
what it does there is seen by the next one.

    database    schemas and raw tables, no rows
    sample      300 users x 3 monthly drops: loaded, built, applied to Feast, published online
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from data.database import Database
from data.postgres.server import EmbeddedServer

ROOT = Path(__file__).resolve().parent.parent
SAMPLE_USERS, SAMPLE_MONTHS, SAMPLE_SEED = 300, 3, 1
# What `make test-quick` leaves out, beside all that needs the sample: whole builds and programs.
SLOW = (
    "dbt/", "end_to_end/",
    "data/test_contract.py", "data/test_errors.py", "data/test_order.py", "data/test_server.py",
    "feast/test_commands.py", "feast/test_one_line.py", "feast/test_places.py",
    "feast/test_processes.py",
    "chaos/", "lineage/test_mutation.py", "releases/",
    "orchestration/test_faults.py", "orchestration/test_live.py", "orchestration/test_steps.py",
    "serving/test_access.py", "serving/test_openapi.py", "serving/test_outages.py",
    "serving/test_page.py", "serving/test_ready.py", "spark/test_build.py", "spark/test_load.py",
    "training/test_against_stock.py", "training/test_leak_check.py",
    "training/test_nullable_types.py",
)  # fmt: skip
ORDER = ["", "data", "serving", "orchestration", "training", "feast", "dbt", "properties"]

# Run as a script of its own: what it imports, connects and caches ends with it, and a database
# can serve as a template only while nobody is connected to it.
BUILD_SAMPLE = f"""
import sys
from pathlib import Path
from data.__main__ import main as data
from orchestration import steps

folder = Path(sys.argv[1])
arguments = "--users {SAMPLE_USERS} --months {SAMPLE_MONTHS} --seed {SAMPLE_SEED}".split()
assert not data(["generate", "--to", str(folder), *arguments])
for drop in sorted(folder.iterdir()):
    steps.ingest(drop)
steps.build()
steps.apply()
steps.materialize()
"""


FOLDER = pytest.StashKey[Path]()
SHARED = "TESTS_SHARED_FOLDER"  # what one process of a run made and the others need not make again


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def pytest_configure(config: pytest.Config) -> None:
    """Before anything is imported: forget the caller's settings, choose a port and folders.

    A fixture would be too late for a module that reads its settings on import.
    """
    for name in list(os.environ):
        if name == "STREAMFLOW_CHROMIUM":  # where the browser is, no setting of the program
            continue
        if name.startswith(("STREAMFLOW_", "DBT_", "FEAST_", "PG")):
            del os.environ[name]
    # Below /tmp itself, not pytest's own folder: a server started by root runs as `nobody`, who
    # may not enter that one.
    folder = Path(tempfile.mkdtemp(prefix="streamflow-tests-"))
    folder.chmod(0o755)
    config.stash[FOLDER] = folder
    os.environ |= {
        "STREAMFLOW_PG_PORT": str(_free_port()),
        "STREAMFLOW_STATE": str(folder / "state"),
        "DBT_TARGET_PATH": str(folder / "target"),
        "DBT_LOG_PATH": str(folder / "logs"),
        "PYTHONPATH": os.pathsep.join(
            p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p
        ),
    }
    if not hasattr(config, "workerinput"):  # the process that all others are started by
        os.environ[SHARED] = str(folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    if (folder := config.stash.get(FOLDER, None)) is not None:
        shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first, whole runs of the program last; within a folder, as written."""

    def place(item: pytest.Item) -> int:
        parts = item.path.relative_to(ROOT / "tests").parts
        folder = parts[0] if len(parts) > 1 else ""
        return ORDER.index(folder) if folder in ORDER else len(ORDER)

    items.sort(key=place)
    for item in items:
        name = item.path.relative_to(ROOT / "tests").as_posix()
        needs_a_build = "sample_template" in getattr(item, "fixturenames", ())
        if needs_a_build or name.startswith(SLOW):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def session_folder(request: pytest.FixtureRequest) -> Path:
    """A temporary folder of this run, which other accounts may enter."""
    return request.config.stash[FOLDER]


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Gives TCP ports of the loopback address that nobody listens on."""
    return _free_port


@pytest.fixture(scope="session")
def server(session_folder: Path) -> Iterator[EmbeddedServer]:
    """The run's own database server; its address is in the environment."""
    server = EmbeddedServer()
    server.start()
    try:
        with _admin() as connection:  # the tests never need their rows after a power cut
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                connection.execute(sql.SQL("alter system set {} = off").format(sql.SQL(setting)))
            connection.execute("select pg_reload_conf()")
        yield server
    finally:
        server.stop("immediate")
        for folder in (server.home, server.socket):
            shutil.rmtree(folder, ignore_errors=True)


def _admin(settings: Database | None = None) -> psycopg.Connection:
    postgres = (settings or Database()).model_copy(update={"database": "postgres"})
    return psycopg.connect(postgres.conninfo(), autocommit=True)


def _drop(settings: Database) -> None:
    with _admin(settings) as connection:
        connection.execute(
            sql.SQL("drop database if exists {} with (force)").format(
                sql.Identifier(settings.database)
            )
        )


def _rename(name: str, new_name: str) -> None:
    with _admin() as connection:
        connection.execute(
            sql.SQL("alter database {} rename to {}").format(
                sql.Identifier(name), sql.Identifier(new_name)
            )
        )


def _clone(template: str) -> Database:
    settings = Database()
    _drop(settings)
    with _admin() as connection:
        connection.execute(
            sql.SQL("create database {} template {}").format(
                sql.Identifier(settings.database), sql.Identifier(template)
            )
        )
    return settings


class _Template:
    """A database that is made on first use and then copied. A failure is remembered.

    `kept`, where there are any: the folders that belong to it. Such a database is made by one
    process of a run, on whose server the others' are no help: they restore its dump.
    """

    def __init__(self, name: str, target: Path, make: list[list[str]], *kept: Path) -> None:
        self.name, self.target, self.make, self.kept = name, target, make, kept
        self.state: str | None = None

    def ready(self) -> str:
        if self.state is None:
            self.state = self._build()
        if self.state:
            pytest.fail(self.state, pytrace=False)
        return self.name

    def _build(self) -> str:
        shared = Path(os.environ[SHARED]) / self.name
        if not self.kept:
            return self._made(self.make)
        with open(f"{shared}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if shared.is_dir():
                return self._restored(shared)
            if failed := self._made(self.make):
                return failed
            shared.mkdir()
            _postgres("pg_dump", self.name, "--format=custom", f"--file={shared / 'dump'}")
            for folder in self.kept:
                shutil.copytree(folder, shared / folder.name, dirs_exist_ok=True)
        return ""

    def _restored(self, shared: Path) -> str:
        """From what another process of this run made."""
        if failed := self._made(self.make[:1]):  # the roles, which are in no dump of a database
            return failed
        with _admin() as connection:
            for statement in ("drop database {}", "create database {} template template0"):
                connection.execute(sql.SQL(statement).format(sql.Identifier(self.name)))
        _postgres("pg_restore", self.name, str(shared / "dump"))
        for folder in self.kept:
            shutil.copytree(shared / folder.name, folder, dirs_exist_ok=True)
        return ""

    def _made(self, commands: list[list[str]]) -> str:
        # Built under the usual name, so that what dbt and Feast noted down fits the copies.
        usual = Database().database
        _drop(Database())
        environment = os.environ | {"DBT_TARGET_PATH": str(self.target)}
        for command in commands:
            done = subprocess.run(
                command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600
            )
            if done.returncode:
                output = f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
                return f"the template {self.name} could not be built: {command[:4]}\n{output}"
        _rename(usual, self.name)
        return ""


def _postgres(program: str, database: str, *arguments: str) -> None:
    """Run one of the programs that come with the server."""
    settings = Database().model_copy(update={"database": database})
    subprocess.run(
        [EmbeddedServer().program(program), f"--dbname={settings.conninfo()}", *arguments],
        check=True,
    )


@pytest.fixture(scope="session")
def empty_template(server: EmbeddedServer, session_folder: Path) -> _Template:
    setup = [sys.executable, "-m", "data", "up"]
    return _Template("template_empty", session_folder / "no-target", [setup])


@pytest.fixture(scope="session")
def sample_template(server: EmbeddedServer, session_folder: Path) -> _Template:
    setup = [sys.executable, "-m", "data", "up"]
    drops, target = session_folder / "sample-drops", session_folder / "sample-target"
    build = [sys.executable, "-c", BUILD_SAMPLE, str(drops)]
    return _Template("template_sample", target, [setup, build], drops, target)


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """dbt's target folder of this test alone (the manifest lies here)."""
    folder = tmp_path / "target"
    monkeypatch.setenv("DBT_TARGET_PATH", str(folder))
    monkeypatch.setenv("DBT_LOG_PATH", str(tmp_path / "logs"))
    return folder


@pytest.fixture
def database(empty_template: _Template, target: Path) -> Iterator[Database]:
    """An empty database with its schemas and raw tables, gone after the test."""
    settings = _clone(empty_template.ready())
    yield settings
    _drop(settings)


@pytest.fixture
def sample(sample_template: _Template, target: Path) -> Iterator[Database]:
    """A database that went through the whole pipeline, with dbt's manifest; gone after the test."""
    settings = _clone(sample_template.ready())
    shutil.copytree(sample_template.target, target)
    yield settings
    _drop(settings)


@pytest.fixture(scope="session")
def sample_drops(sample_template: _Template, session_folder: Path) -> Path:
    """The folder of the drops that `sample` was made from; to be read only."""
    sample_template.ready()
    return session_folder / "sample-drops"
