"""What a process of the fault tests does; in a module of its own, for a process to import."""

from __future__ import annotations

import os
import sys
from datetime import datetime


def materialize(environment: dict[str, str], repo: str, end: str, output: str) -> None:
    """Bring everything online up to `end`, as `feast materialize-incremental` does."""
    os.environ.clear()
    os.environ.update(environment)
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            from feast import FeatureStore

            FeatureStore(repo_path=repo).materialize_incremental(datetime.fromisoformat(end))
        finally:
            sys.stdout.flush()
