"""`python -m serving`: the API as it runs in production, with workers where asked for."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence

import uvicorn

from data.database import Database
from data.errors import command
from serving.logs import set_up_logs
from serving.settings import Settings, SettingsError


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; requests under way are answered first."""
    parser = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    parser.add_argument("--host", help="default 127.0.0.1; anything else needs an API key")
    parser.add_argument("--port", type=int, help="default 8000")
    parser.add_argument("--workers", type=int, help="processes; default 1")
    given = {k: v for k, v in vars(parser.parse_args(arguments)).items() if v is not None}
    for name, value in given.items():  # workers read the environment
        os.environ[f"STREAMFLOW_API_{name.upper()}"] = str(value)
    try:
        settings = Settings()
        settings.check()
        Database().conninfo(serving=True)  # refuses a default password elsewhere
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    shared = ""
    if settings.workers > 1:
        shared = os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="streamflow-")
    set_up_logs()
    try:
        uvicorn.run(
            "serving.main:app",
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing here depends on who the client says it is
            timeout_graceful_shutdown=10,
            # By default a worker that has not answered after 5 s is killed and begun anew; on a
            # busy machine importing Feast alone takes longer, and none would ever come up.
            timeout_worker_healthcheck=60,
        )
    finally:
        if shared:
            shutil.rmtree(shared, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
