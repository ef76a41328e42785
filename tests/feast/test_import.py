"""Feast is imported without its run-time type checks by our commands, and with them by `feast`."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import {first}
import typeguard
before = typeguard.typechecked
import feast, streamflow_feast
assert typeguard.typechecked is before, "others' checks would be gone as well"
print("typeguard" in feast.FeatureView.__init__.__code__.co_names)
"""


@pytest.mark.parametrize(
    ("first", "checks"), [("streamflow_feast", False), ("serving", False), ("feast", True)]
)
def test_the_checks_are_left_out_where_we_come_first(first: str, checks: bool) -> None:
    """They are three of the four seconds that each of our commands would need to start."""
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(first=first)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(checks)
