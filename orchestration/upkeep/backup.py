"""Everything in one file, and back: `make backup [TO=<file>]`, `make restore FROM=<file>`.

A backup is pg_dump's custom format of the database: raw rows, versions, ledger, online tables and
Feast's registry, as of one instant, beside whatever runs. It restores into a database that holds
nothing yet, a new cluster's say, of this release or a later one. Drops, training sets and Redis are
no part of it: the first can be loaded again, the others follow.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from psycopg import sql

from data.__main__ import up
from data.database import Database
from data.errors import command
from data.paths import PROCESSED
from data.postgres.server import EmbeddedServer, ServerError
from data.postgres.setup import set_up
from orchestration.steps import say
from orchestration.upkeep.erased_list import NAME, merge_list

SCHEMAS = ("raw", "staging", "features", "published", "online", "ledger")


class BackupError(RuntimeError):
    """The backup was not made or not restored; the text says why."""


def backup(file: Path) -> int:
    """Write the file in one piece; its size in bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    scratch.touch(mode=0o600)
    try:
        with scratch.open("wb") as out:
            _run("pg_dump", "--format=custom", "--no-owner", "--no-privileges",
                 *(f"--schema={schema}" for schema in SCHEMAS), out=out)  # fmt: skip
            out.flush()
            os.fsync(out.fileno())
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)
    return file.stat().st_size


def restore(file: Path, folder: Path = PROCESSED) -> int:
    """Fill a database that is set up and holds nothing, in one transaction, and bring it to this
    release; how many were erased since the backup was made, as the list in `folder` says.

    Raises:
        BackupError: the database holds something, or the file is no backup of it.
    """
    if not file.is_file():
        raise BackupError(f"there is no file {file}; nothing was changed")
    settings = Database()
    with settings.connect() as connection:
        held = connection.execute(
            "select (select count(*) from raw.loads), (select count(*) from ledger.builds)"
        ).fetchone() or (0, 0)
        if held != (0, 0):
            raise BackupError(
                f"{settings.database} on {settings.host}:{settings.port} holds {held[0]} loads and "
                f"{held[1]} builds, and nothing was changed. Restore into another database "
                "(STREAMFLOW_PG_DATABASE=...), or drop this one first"
            )
    listed = _run("pg_restore", "--list", str(file))
    if b" publications " not in listed or b" loads " not in listed:
        raise BackupError(f"{file} is no backup of this project's database; nothing was changed")
    _replay(file)
    set_up(settings)
    with settings.connect() as connection:
        new = merge_list(connection, folder)
        connection.commit()
        connection.execute("analyze")
    return new


def _replay(file: Path) -> None:
    """The backup instead of the empty schemas, in one transaction that only a whole one commits."""
    first = sql.SQL("begin; drop schema if exists {} cascade;\n").format(
        sql.SQL(", ").join(map(sql.Identifier, SCHEMAS))
    )
    script = [_program("pg_restore"), "--no-owner", "--no-privileges", "--file=-", str(file)]
    quiet = ["--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", f"--output={os.devnull}"]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(script, stdout=subprocess.PIPE, stderr=said) as reading,
        subprocess.Popen(
            [_program("psql"), *quiet], stdin=subprocess.PIPE, stderr=said, env=_environment()
        ) as writing,
    ):
        assert reading.stdout is not None
        assert writing.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # psql has said why
            writing.stdin.write(first.as_string().encode())
            shutil.copyfileobj(reading.stdout, writing.stdin)
            if reading.wait() == 0:
                writing.stdin.write(b"commit;\n")
            writing.stdin.close()
        reading.kill()
        if writing.wait() or reading.wait():
            said.seek(0)
            why = " ".join(said.read().decode(errors="replace").split())[-600:]
            raise BackupError(f"{file} could not be restored, and nothing was changed: {why}")


def _run(program: str, *arguments: str, out: IO[bytes] | None = None) -> bytes:
    """What a program of Postgres prints, or nothing where that goes to `out`."""
    done = subprocess.run(
        [_program(program), *arguments], env=_environment(), stdin=subprocess.DEVNULL,
        stdout=out or subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())[-600:]
        raise BackupError(f"{program} failed, and nothing was changed: {said}")
    return done.stdout or b""


def _program(name: str) -> str:
    try:
        return str(EmbeddedServer(Database()).program(name))
    except ServerError as error:
        raise BackupError(
            f"{error}. In containers: docker compose exec postgres {name} (docs/operations.md)"
        ) from None


def _environment() -> dict[str, str]:
    """Where the database is; on a command line everybody could read the password."""
    settings = Database()
    return os.environ | {
        "PGHOST": settings.host, "PGPORT": str(settings.port), "PGDATABASE": settings.database,
        "PGUSER": settings.user, "PGPASSWORD": settings.password.get_secret_value(),
        "PGSSLMODE": settings.sslmode,
    }  # fmt: skip


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestration", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="what", required=True)
    kept = commands.add_parser("backup")
    kept.add_argument("--to", type=Path, help="the file (default: data/processed/backups/<now>)")
    back = commands.add_parser("restore")
    back.add_argument("--from", type=Path, required=True, dest="file")
    options = parser.parse_args(arguments)
    if options.what == "backup":
        now = datetime.now(timezone.utc)
        file = options.to or PROCESSED / "backups" / f"streamflow-{now:%Y-%m-%dT%H%M%SZ}.dump"
        say(f"  {file}: {backup(file):,} bytes")
        return 0
    up(Database())
    new = restore(options.file, PROCESSED)
    with Database().connect() as connection:
        row = connection.execute("select max(known_at)::text from ledger.publications").fetchone()
    say(f"  restored from {options.file}, as known at {row[0] if row else None}")
    if new:
        say(f"  {new:,} were erased since ({NAME}) and are back: now run `make erase AGAIN=1`")
    say("  next: make build apply materialize audit")
    return 0
