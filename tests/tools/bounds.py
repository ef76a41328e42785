"""`make test-bounds`: do all versions that pyproject.toml allows work, and not the locked alone?

Two environments of their own (below .state/bounds), resolved by uv: `lowest`, the lower bound of
each direct dependency, and `newest`, the newest that the bounds allow: of dbt-core 1.11.x, say.
In each, tests of every part run. It downloads some 500 MB and takes a quarter of an hour, so that
CI does not run it on each commit.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
SHOWN = ("dbt-core", "dbt-postgres", "feast", "fastapi", "pandas", "numpy", "pyarrow", "psycopg")
TOOLS = ("httpx", "hypothesis", "pytest", "pytest-xdist")  # of the extra dev, by its bounds
TESTS = (
    "tests/releases/test_upgrades.py",  # build, publish, materialize, audit, training sets
    "tests/data/test_load.py",
    "tests/feast/test_materialize.py",
    "tests/training/test_training_set.py",
    "tests/serving/test_features.py",
)


def tools() -> list[str]:
    """What the tests need, as pyproject.toml asks for it."""
    text = (ROOT / "pyproject.toml").read_text()
    return re.findall(rf'"((?:{"|".join(TOOLS)})[><=][^"]*)"', text)


def main() -> int:
    """Each environment in turn; 1 when the tests of one fail."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.bounds", description=__doc__)
    parser.add_argument("which", nargs="*", choices=[[], *RESOLUTIONS], help="(both)")
    parser.add_argument("--python", default=f"{sys.version_info[0]}.{sys.version_info[1]}")
    options = parser.parse_args()
    failed = []
    for name in options.which or RESOLUTIONS:
        folder = ROOT / ".state" / "bounds" / name
        python = folder / "bin" / "python"
        run("uv", "venv", "--quiet", "--clear", "--python", options.python, str(folder))
        run(
            "uv", "pip", "install", "--quiet", "--python", str(python),
            "--resolution", RESOLUTIONS[name], *tools(), "--editable", ".",
        )  # fmt: skip
        listed = run("uv", "pip", "freeze", "--python", str(python), capture=True)
        shown = [line for line in listed.splitlines() if line.split("==")[0] in SHOWN]
        print(f"{name}: {', '.join(shown)}", flush=True)
        done = subprocess.run([str(python), "-m", "pytest", "-q", "-n", "0", *TESTS], cwd=ROOT)
        failed += [name] if done.returncode else []
    print(f"failed: {', '.join(failed)}" if failed else "all bounds hold")
    return int(bool(failed))


def run(*command: str, capture: bool = False) -> str:
    """A command that has to work."""
    program = Path(sys.executable).with_name(command[0])
    words = [str(program) if program.exists() else command[0], *command[1:]]
    environment = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, text=True, check=True,
        stdout=subprocess.PIPE if capture else None,
    )  # fmt: skip
    return done.stdout or ""


if __name__ == "__main__":
    sys.exit(main())
