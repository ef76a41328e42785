"""What chaos happens to: a server of its own, drops, the steps as processes, and what must hold."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from data.contract import declared
from data.database import Database
from data.load.check import DropError
from data.postgres.server import EmbeddedServer, ServerError

ROOT = Path(__file__).resolve().parents[2]
TMPFS_MB = 900  # a cluster with its write-ahead log, and little room beside
SECONDS = 180.0  # for a step that takes a few; longer is a hang


class Child:
    """A step in a process of its own: a fork, which has dbt and Feast imported already."""

    def __init__(self, step: Callable[[], object], log: Path) -> None:
        sys.stdout.flush()
        self.began = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.setsid()
                with log.open("ab") as out:
                    os.dup2(out.fileno(), 1)
                    os.dup2(out.fileno(), 2)
                code = int(step() or 0)
            except BaseException as error:
                if "StepError" not in type(error).__name__ and not isinstance(error, DropError):
                    traceback.print_exc()
                else:
                    print(error, flush=True)
            finally:
                os._exit(code)

    def wait(self, seconds: float = SECONDS) -> int | None:
        """Its exit status, negative for a signal; None while it still runs."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        return None

    def kill(self) -> None:
        """With all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


@dataclass
class World:
    """The folder of everything, and what was delivered."""

    folder: Path
    drops: list[Path]
    corrected: Path
    tmpfs: Path | None
    faketime: Path | None

    @property
    def log(self) -> Path:
        return self.folder / "steps.log"

    def start(self, offset: str = "") -> None:
        """The server, after however it ended; `offset` shifts its clock, as +3d."""
        before = {name: os.environ.pop(name, None) for name in ("LD_PRELOAD", "FAKETIME")}
        if offset and self.faketime:
            os.environ |= {"LD_PRELOAD": str(self.faketime), "FAKETIME": offset}
        try:
            for last in (*[False] * 40, True):
                try:
                    EmbeddedServer().start()
                    return
                except ServerError:  # what a killed one leaves takes a moment to go
                    if last:
                        raise
                    time.sleep(0.5)
        finally:
            for name in before:
                os.environ.pop(name, None)

    def postmaster(self) -> int:
        pid = EmbeddedServer().postmaster()
        assert pid is not None, "the server is gone by itself"
        return pid

    def step(self, what: Callable[[], object]) -> Child:
        return Child(what, self.log)


@contextlib.contextmanager
def a_world(seed: int, users: int, months: int, *, tmpfs: bool) -> Iterator[World]:
    """On a small tmpfs where this may mount one, so that the disk can become full."""
    folder = Path(tempfile.mkdtemp(prefix="streamflow-chaos-"))
    folder.chmod(0o755)
    state = folder / "state"
    state.mkdir()
    mounted = tmpfs and _mount(state)
    from tests.conftest import _free_port

    os.environ |= {
        "STREAMFLOW_PG_PORT": str(_free_port()), "STREAMFLOW_STATE": str(state),
        "DBT_TARGET_PATH": str(folder / "target"), "DBT_LOG_PATH": str(folder / "logs"),
    }  # fmt: skip
    world = World(folder, [], folder / "corrected", state if mounted else None, _faketime())
    server = EmbeddedServer()
    try:
        world.drops = _generate(folder / "drops", seed, users, months)
        world.corrected = _correct(world.drops[0], folder / "corrected")
        world.start()
        admin = Database().model_copy(update={"database": "postgres"})
        with psycopg.connect(admin.conninfo(), autocommit=True) as connection:
            connection.execute("alter system set max_wal_size = '128MB'")  # it has to fit
            connection.execute("alter system set shared_buffers = '64MB'")
        server.stop()
        world.start()
        yield world
    finally:
        server.stop("immediate")
        if mounted:
            subprocess.run(["umount", "-l", str(state)], check=False)
        shutil.rmtree(server.home, ignore_errors=True)
        shutil.rmtree(server.socket, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


def _mount(folder: Path) -> bool:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    options = f"size={TMPFS_MB}m,mode=755"
    command = ["mount", "-t", "tmpfs", "-o", options, "streamflow-chaos", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0


def _faketime() -> Path | None:
    """Debian's libfaketime, which shifts the clock of a process; STREAMFLOW_FAKETIME: elsewhere."""
    places = [Path(os.environ.get("STREAMFLOW_FAKETIME", "/nowhere"))]
    places += sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return next((place for place in places if place.is_file()), None)


def _generate(folder: Path, seed: int, users: int, months: int) -> list[Path]:
    from data.sample.generate import Plan, generate

    return generate(folder, Plan(users=users, months=months, seed=seed, sessions=4))


def _correct(drop: Path, folder: Path) -> Path:
    """The first drop as it is delivered again: some payments fewer."""
    again = folder / drop.name
    shutil.copytree(drop, again)
    payments = again / "payments.csv"
    lines = payments.read_text().splitlines(keepends=True)
    payments.write_text("".join(lines[: -max(1, len(lines) // 10)]))
    return again


def bad_drop(drop: Path, folder: Path, chance: random.Random) -> tuple[Path, str]:
    """A copy with one thing wrong, for which it has to be refused; and what that is."""
    bad = folder / drop.name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(drop, bad)
    file = bad / chance.choice(["users.csv", "usage.csv", "payments.csv", "subscriptions.csv"])
    lines = file.read_text().splitlines()
    what = chance.choice(["no header", "cut off", "a word for a number", "twice", "no file name"])
    place = chance.randrange(1, len(lines))
    if what == "no header":
        del lines[0]
    elif what == "cut off":
        lines[place:] = [lines[place].rpartition(",")[0]]
    elif what == "a word for a number":
        cells = lines[place].split(",")
        cells[-1] = "\x00nonsense"
        lines[place] = ",".join(cells)
    elif what == "twice":
        cells = lines[place].split(",")
        lines.append(",".join([cells[0], *cells[1:-1], f"{cells[-1]}9"]))
        lines.append(lines[-1] + "9")
    else:
        file.rename(file.with_name("unheard-of.csv"))
        return bad, what
    file.write_text("\n".join(lines) + "\n")
    return bad, f"{what} in {file.name}"


# What must hold at every moment, whatever was killed: (what is broken, a query that is empty).
ALWAYS = [
    (
        "versions below the newest publication that no publication has",
        "select 1 from features.{} where known_at < (select max(known_at) from ledger.publications)"
        " and known_at not in (select known_at from ledger.publications) limit 1",
    ),
]
HALF_LOADED = (
    "select 1 from raw.{} where load_id not in (select load_id from raw.loads"
    " where table_name = '{}') limit 1"
)


def broken() -> list[str]:
    """What does not hold now, in a fork's own connections: half a load, versions that are visible
    without a publication, online rows that are not what the ledger says was brought there."""
    from streamflow_feast.materialize.audit import _online_views, _view, compare_view

    found = []
    with Database().connect() as connection:
        for table in declared():
            query = HALF_LOADED.format(table.name, table.name)
            if connection.execute(query).fetchone():  # type: ignore[call-overload]
                found.append(f"half a load in raw.{table.name}")
        tables = connection.execute(
            "select relname from pg_class where relnamespace = 'features'::regnamespace"
            " and relkind = 'r'"
        ).fetchall()
        for (name,) in tables:
            for what, query in ALWAYS:
                if connection.execute(query.format(name)).fetchone():  # type: ignore[call-overload]
                    found.append(f"{what}: features.{name}")
        last = dict(
            connection.execute(
                "select distinct on (view_name) view_name, publication"
                " from ledger.materializations where publication > 'epoch'"
                " order by view_name, materialization_id desc"
            ).fetchall()
        )
        if len(set(last.values())) > 1:
            found.append("views online of several publications")
        for name in _online_views(connection, None) if last else ():
            if name in last:
                result = compare_view(connection, _view(connection, name), last[name])
                found += [] if result.passed else [f"online.{name}: {result.examples[:1]}"]
    return found


def state(folder: Path) -> dict[str, str]:
    """What people have of it, by checksum: raw rows in effect, published and online values, and a
    training set. No stamp is in it."""
    from streamflow_feast.training.training_set import write_training_set
    from tests.dbt.builds import effective_rows, rows

    ((load,),) = rows("select max(load_id) from raw.loads")
    said = {f"raw.{name}": repr(there) for name, there in effective_rows(load).items()}
    for schema, ending in (("published", "_latest"), ("online", "")):
        for (name,) in rows(
            "select relname from pg_class where relnamespace = %s::regnamespace"
            " and relkind in ('r', 'v') and relname like %s and relname <> 'registry'",
            schema,
            f"%{ending}",
        ):
            with Database().connect() as connection:
                query = sql.SQL(
                    "select to_jsonb(t) - '{{known_at,published_at,pushed_at}}'::text[]"
                    " from {} as t order by 1"
                ).format(sql.Identifier(schema, name))
                said[f"{schema}.{name}"] = repr(connection.execute(query).fetchall())
    made = write_training_set("2024-01-31", out=folder, keep_unlabelled=True)
    said["training set"] = made.files[0].read_text()
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in said.items()}


def fresh_database() -> None:
    """An empty one under the usual name, and set up."""
    from data.__main__ import prepare

    settings = Database()
    admin = settings.model_copy(update={"database": "postgres"})
    with psycopg.connect(admin.conninfo(), autocommit=True) as connection:
        connection.execute(
            sql.SQL("drop database if exists {} with (force)").format(
                sql.Identifier(settings.database)
            )
        )
    prepare(settings)
