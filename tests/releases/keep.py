"""Keep what this release writes, for later ones to upgrade: python -m tests.releases.keep 0.1

Writes beside this file `<release>.sql.gz`, a plain dump of a small database of three publications,
and `<release>.json`, what it answers: a checksum of every published view, and of training sets as
known at each publication. To be run once, with the code of the release, when it is made.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
AS_OF = "2024-01-31,2024-02-29"


def answers() -> dict[str, Any]:
    """What the database says: in each published view, and as known at each publication."""
    from data.database import Database
    from orchestration import steps

    with Database().connect() as connection:
        views = [
            name
            for (name,) in connection.execute(
                "select viewname from pg_views where schemaname = 'published' order by viewname"
            )
        ]
        stamps = [
            stamp.isoformat()
            for (stamp,) in connection.execute(
                "select known_at from ledger.publications order by known_at"
            )
        ]
        said = {view: digest_of(connection, view) for view in views}
    sets = {}
    with tempfile.TemporaryDirectory() as folder:
        for stamp in stamps:
            made = steps.training_set(["2024-01-31"], known_at=stamp, out=Path(folder))
            csv = made.files[0].read_bytes()
            sets[stamp] = {
                "sha256": hashlib.sha256(csv).hexdigest(),
                "rows": made.manifest["rows"],
                "columns": csv.partition(b"\n")[0].decode(),
            }
    return {"views": said, "training_sets": sets}


def digest_of(connection: Any, view: str, columns: list[str] | None = None) -> dict[str, Any]:
    """The rows of a published view: how many, and a checksum of these columns (default: all)."""
    from psycopg import sql

    if columns is None:
        columns = [
            name
            for (name,) in connection.execute(
                "select attname::text from pg_attribute where attrelid = %s::regclass"
                " and attnum > 0 order by attname",
                [f"published.{view}"],
            )
        ]
    row = connection.execute(
        sql.SQL(
            "select count(*), md5(string_agg(line, e'\\n' order by line collate \"C\")) from ("
            "select concat_ws('|', {}) as line from {}) as lines"
        ).format(
            sql.SQL(", ").join(
                sql.SQL("coalesce({}::text, '-')").format(sql.Identifier(name)) for name in columns
            ),
            sql.Identifier("published", view),
        )
    ).fetchone()
    return {"rows": row[0], "md5": row[1], "columns": columns}


def fill(folder: Path) -> None:
    """Three publications, the last one with a correction of the first month and a user gone."""
    from data.__main__ import main as data
    from orchestration import steps

    few = ["--users", "24", "--months", "3", "--seed", "7", "--sessions", "4"]
    assert not data(["generate", "--to", str(folder), *few])
    drops = sorted(folder.iterdir())
    for drop in drops:
        if drop is drops[-1]:
            payments = drops[0] / "payments.csv"
            lines = payments.read_text().splitlines()
            payments.write_text("\n".join(lines[:-5]) + "\n")
            steps.ingest(drops[0])
        steps.ingest(drop)
        steps.build()
    steps.apply()
    steps.materialize()
    steps.audit()


def main(release: str) -> None:
    """On a server of its own, which is gone afterwards."""
    from tests.conftest import _free_port

    folder = Path(tempfile.mkdtemp(prefix="streamflow-release-"))
    folder.chmod(0o755)
    os.environ |= {
        "STREAMFLOW_PG_PORT": str(_free_port()),
        "STREAMFLOW_STATE": str(folder / "state"),
        "DBT_TARGET_PATH": str(folder / "target"),
        "DBT_LOG_PATH": str(folder / "logs"),
    }
    from data.__main__ import main as data
    from data.database import Database
    from data.postgres.server import EmbeddedServer

    assert not data(["up"])
    server = EmbeddedServer()
    try:
        fill(folder / "drops")
        (FOLDER / f"{release}.json").write_text(json.dumps(answers(), indent=1) + "\n")
        dumped = subprocess.run(
            [
                server._binaries() / "pg_dump", "--no-owner", "--no-privileges",
                "--restrict-key=streamflow", "-d", Database().conninfo(),
            ],
            capture_output=True, check=True,
        )  # fmt: skip
        packed = gzip.compress(dumped.stdout, 9, mtime=0)
        (FOLDER / f"{release}.sql.gz").write_bytes(packed)
    finally:
        server.stop("immediate")
        shutil.rmtree(server.home, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
