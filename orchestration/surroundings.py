"""Where dbt and Feast, run in this process, find themselves: variables, folder, import path."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Inside, this process has these variables: dbt reads them when it runs."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Feast imports a repo relative to the working directory, and only once a process."""
    before = Path.cwd()
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.modules.pop("definitions", None)
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        os.chdir(before)
