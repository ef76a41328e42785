"""`python -m tests.tools.lint_sql [--fix]`: sqlfluff, with a database of its own.

The dbt templater compiles the models, and some of their macros ask the database; a linter should
neither need the demo's server nor touch it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from data.__main__ import up
from data.database import Database
from data.paths import DBT_PROJECT, ROOT
from data.postgres.server import EmbeddedServer


def lint(*, fix: bool = False) -> int:
    """Lint, or repair, the models; sqlfluff's exit status."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="streamflow-lint-"))
    folder.chmod(0o755)  # a server that root starts runs as another account
    os.environ |= {
        "STREAMFLOW_PG_PORT": str(port),
        "STREAMFLOW_STATE": str(folder),
        "DBT_TARGET_PATH": str(folder / "target"),
        "DBT_LOG_PATH": str(folder / "logs"),
    }
    settings = Database()
    server = EmbeddedServer(settings)
    try:
        up(settings)
        sqlfluff = Path(sys.executable).with_name("sqlfluff")
        command = [str(sqlfluff), "fix" if fix else "lint", str(DBT_PROJECT / "models")]
        return subprocess.run(command, cwd=ROOT).returncode
    finally:
        server.stop("immediate")
        for leftover in (server.home, server.socket, folder):
            shutil.rmtree(leftover, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(lint(fix="--fix" in sys.argv[1:]))
