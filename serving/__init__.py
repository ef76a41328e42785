"""GET /features/<user_id>: the newest published features of a user, read from schema `online`."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path


def _share_metrics() -> None:
    """Have the workers of `uvicorn --workers n` count together, as those of ours do.

    Nobody tells them that they are several. What they have in common, and with no other server, is
    the secret that their parent process hands on.
    """
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ or multiprocessing.parent_process() is None:
        return
    secret = bytes(multiprocessing.current_process().authkey)
    place, prefix = Path(tempfile.gettempdir()), "streamflow-metrics-"
    for left in place.glob(f"{prefix}*-*"):  # by servers that are gone: none can do so at its end
        with contextlib.suppress(OSError, ValueError):
            try:
                os.kill(int(left.name.split("-")[2]), 0)
            except ProcessLookupError:
                shutil.rmtree(left, ignore_errors=True)
    digest = hashlib.sha256(secret).hexdigest()[:24]
    folder = place / f"{prefix}{os.getppid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)


_share_metrics()

# Only now, as it looks for that folder once; and before Feast, which would choose one of its own.
import prometheus_client  # noqa: E402, F401

import streamflow_feast  # noqa: E402, F401 - before Feast: see there
