"""make, as someone meets it first: its list of commands, and its words when a thing is missing."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def make(*arguments: str, folder: Path = ROOT, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_help_explains_every_target() -> None:
    status, text = make()
    assert status == 0
    phony = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)
    for target in " ".join(phony).split():
        assert re.search(rf"^  {target} +\S+", text, re.M), target


@pytest.mark.parametrize(
    ("target", "missing"),
    [
        ("load", "DROP="),
        ("training-set", "AS_OF="),
        ("vector", "USER="),
        ("prune", "KEEP="),
        ("restore", "FROM="),
    ],
)
def test_a_missing_argument_is_asked_for(target: str, missing: str) -> None:
    # USER is in every environment: the name that one is logged in by is not an answer.
    status, text = make("-o", ".venv/.runtime", target, USER="root")
    assert status == 2
    assert f"Say which: make {target} {missing}" in text


def test_an_environments_own_variables_are_not_options() -> None:
    """PORT, END, TO and USERS are set in many an environment, and mean something else there."""
    names = (
        "USERS MONTHS SEED GRAIN TO DROP RECOMPUTE END FULL AS_OF KNOWN_AT SERVICE USER PORT ARGS "
        "ENTITY ID FILE ALSO TABLE DROPS READMIT AGAIN SECONDS"
    )
    foreign = dict.fromkeys([*names.split(), "DEBUG", "UPGRADE", "PYTHON"], "/foreign")
    for target in (
        "generate", "build", "materialize", "pipeline", "dagster", "test", "lock", "erase",
        "backup", "chaos",
    ):  # fmt: skip
        status, text = make("-n", "-o", ".venv/.dev", "-o", ".venv/.runtime", target, **foreign)
        assert status == 0
        assert "/foreign" not in text, target
        assert "--debug" not in text


def test_a_value_reaches_the_command_as_it_was_typed() -> None:
    """A user's id may hold quotes, spaces and dollars."""
    typed = 'it\'s $5 / `id` "x"'
    _, text = make("-n", "-o", ".venv/.runtime", "vector", f"USER={typed}", "DEBUG=1")
    line = text.splitlines()[-1]
    assert shlex.split(line)[1:] == ["-m", "orchestration", "--debug", "vector", "--", typed]
    _, text = make("-n", "-o", ".venv/.dev", "dagster", "PORT=3001")
    assert shlex.split(text.splitlines()[-1])[-2:] == ["--port", "3001"]


def test_without_a_fitting_python_it_says_which_it_needs(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    status, text = make("up", "PYTHON=/nowhere/python2", folder=tmp_path)
    assert status == 2
    assert "Python 3.10 to 3.13" in text
    assert "/nowhere/python2" in text
    assert not (tmp_path / ".venv").exists()


def test_the_makefile_stays_within_what_old_makes_and_shells_know() -> None:
    text = (ROOT / "Makefile").read_text()
    assert not re.findall(r"!=|\.ONESHELL|\$\(file |\[\[|<<<|&>|sed -i|grep -P|readlink -f", text)


def test_the_locks_agree_and_name_no_registry() -> None:
    """`make demo` and `make test` share an environment: a difference would go back and forth."""

    def pins(file: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for line in (ROOT / file).read_text().splitlines():
            if pin := re.match(r"([\w.-]+)(?:\[.*?\])?==(\S+)(.*?) ?\\?$", line):
                found.setdefault(pin[1], set()).add(pin[2])
        return found

    runtime, dev = pins("requirements.lock"), pins("requirements-dev.lock")
    assert len(runtime) > 100
    assert {name: pin for name, pin in runtime.items() if not pin <= dev.get(name, set())} == {}
    for file in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / file).read_text()
        assert "://" not in text
        assert text.count("--hash=sha256:") > 1000
