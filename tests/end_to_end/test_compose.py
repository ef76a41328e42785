"""docker-compose.yml as far as it can be checked without a Docker engine.

The images were never built here, so a wrong name in this file would be met first by whoever
deploys it: commands, variables, folders and passwords are held against the code instead.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.database import Database
from orchestration.__main__ import parser
from serving.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
SECRETS = {
    "STREAMFLOW_PG_PASSWORD": "an owner's password",
    "STREAMFLOW_PG_SERVING_PASSWORD": "a reader's password",
    "STREAMFLOW_API_KEYS": "0123456789abcdef0123456789abcdef",
}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())["services"]


def test_it_follows_the_compose_specification() -> None:
    reason = "compose-spec has no wheel for this platform"
    PyCompose = pytest.importorskip("compose_spec", reason=reason).PyCompose  # noqa: N806
    assert set(PyCompose.from_yaml(FILE.read_text()).service_names()) >= {"postgres", "api"}
    with pytest.raises(Exception, match=r"\w"):
        PyCompose.from_yaml(FILE.read_text().replace("healthcheck:", "helthcheck:"))


@pytest.mark.skipif(
    shutil.which("docker-compose") is None, reason="no docker-compose client on this machine"
)
def test_the_compose_client_accepts_it() -> None:
    command = ["docker-compose", "-f", str(FILE), "config", "--quiet"]
    subprocess.run(command, env=os.environ | SECRETS, check=True, capture_output=True)
    without = subprocess.run(command, capture_output=True, text=True)
    assert without.returncode, "secrets have no default"
    assert ".env.example" in without.stderr


def test_every_environment_variable_is_one_that_the_settings_read(services: dict[str, Any]) -> None:
    known = {f"STREAMFLOW_PG_{name.upper()}" for name in Database.model_fields}
    known |= {f"STREAMFLOW_API_{name.upper()}" for name in Settings.model_fields}
    for name in ("pipeline", "api"):
        assert set(services[name]["environment"]) <= known
    example = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.M))
    assert example == set(re.findall(r"\$\{(\w+)", FILE.read_text()))
    assert example <= known


def test_the_api_gets_the_serving_roles_password_only(services: dict[str, Any]) -> None:
    assert "STREAMFLOW_PG_PASSWORD" not in services["api"]["environment"]


def test_the_apis_settings_are_accepted_with_a_key_and_refused_without(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in services["api"]["environment"].items():
        filled = re.sub(r"\$\{(\w+):?[-?]?(.*?)\}", lambda m: SECRETS.get(m[1], m[2]), value)
        monkeypatch.setenv(name, filled)
    Settings().check()
    monkeypatch.delenv("STREAMFLOW_API_KEYS")
    with pytest.raises(ValueError, match="API key"):
        Settings().check()


def test_the_commands_exist(services: dict[str, Any]) -> None:
    _, _, script = services["pipeline"]["command"]
    up, pipeline = script.split(" && ")
    help_text = subprocess.run(
        [sys.executable, "-m", "data", "--help"], capture_output=True, text=True, cwd=ROOT
    ).stdout
    assert up == "python -m data up"
    assert re.search(r"^\s+up\s", help_text, re.M)
    assert pipeline.startswith("python -m orchestration ")
    assert parser().parse_args(pipeline.split()[3:]).drops == Path("data/drops")
    assert services["api"]["command"] == ["python", "-m", "serving"]
    assert importlib.util.find_spec("serving.__main__")


def test_postgres_is_set_up_like_the_embedded_one(services: dict[str, Any]) -> None:
    from data.server import CONF

    ours = dict(re.findall(r"^(\w+) = '?([^'\n]+)'?$", CONF, re.M))
    theirs = dict(re.findall(r"-c (\w+)=(\S+)", services["postgres"]["command"]))
    assert theirs["timezone"] == "UTC"
    assert {name: ours[name] for name in theirs} == theirs
    assert services["postgres"]["ports"] == [
        f"127.0.0.1:{Database.model_fields['port'].default}:5432"
    ]
    for name in ("pipeline", "api"):
        assert services[name]["depends_on"]["postgres"] == {"condition": "service_healthy"}


def test_the_dockerfile_copies_what_is_there_and_ignores_nothing_it_needs() -> None:
    kept = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.M)
    copies = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    sources = {source for line in copies for source in line.split()}
    assert sources == set(kept)
    assert [source for source in sources if not (ROOT / source).exists()] == []
