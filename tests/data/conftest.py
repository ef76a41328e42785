"""A folder to write drops into."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.data.drops import write_drop


@pytest.fixture
def drop(tmp_path: Path) -> Callable[..., Path]:
    """drop("2024-03-31", users=["u,2024-01-01,,,,"]) writes that drop anew, gives its folder."""
    return partial(write_drop, tmp_path / "drops")
