"""Where things lie in a checkout, an image or a copy of the project: the only list of places."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DBT_PROJECT = ROOT / "dbt_project"
FEATURE_REPO = ROOT / "feature_repo"
DROPS = ROOT / "data" / "drops"
PROCESSED = ROOT / "data" / "processed"  # training sets and reports
FEATURE_LOGS = PROCESSED / "feature_logs"  # samples of served answers


def lake() -> Path:
    """Where raw rows and features lie when dbt builds on Spark: STREAMFLOW_LAKE."""
    return Path(os.environ.get("STREAMFLOW_LAKE") or ROOT / ".state" / "lake").absolute()


CODE = ("dbt_project", "feature_repo", "orchestration", "data/*.py")  # what features depend on


def code_version() -> str:
    """STREAMFLOW_CODE_VERSION, as an image has it; else the checkout's commit, "+" for uncommitted
    changes or code that git does not know; empty outside of a git checkout."""
    if given := os.environ.get("STREAMFLOW_CODE_VERSION"):
        return given
    new = ["ls-files", "--others", "--exclude-standard", "--", *CODE]
    try:
        commit = _git("describe", "--always", "--abbrev=12", "--dirty=+")
        return f"{commit}+" if not commit.endswith("+") and _git(*new) else commit
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
