"""Write docs/decisions/README.md: every decision with its title and the day it was written down."""

from __future__ import annotations

import re
import subprocess
from datetime import date
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "decisions"
HEAD = """# Decisions

What surprised us, and what we did then; half a page each. `python -m tests.tools.decisions` writes
this page.

| | | |
|---|---|---|
"""


def index() -> list[str]:
    """The lines of the table."""
    lines = []
    for file in sorted(FOLDER.glob("[0-9]*.md")):
        first = file.read_text().partition("\n")[0]
        title = re.sub(r"^# (\d{4}:? )?", "", first).strip()
        lines.append(f"| [{file.name[:4]}]({file.name}) | {title} | {added(file)} |")
    return lines


def added(file: Path) -> str:
    """The day a file came into git; today for one that is not there yet."""
    log = ["git", "-C", str(FOLDER), "log", "--diff-filter=A", "--follow", "--format=%as"]
    done = subprocess.run([*log, "--", file.name], capture_output=True, text=True, check=True)
    told = done.stdout.split()
    return told[-1] if told else date.today().isoformat()


if __name__ == "__main__":
    (FOLDER / "README.md").write_text(HEAD + "\n".join(index()) + "\n")
