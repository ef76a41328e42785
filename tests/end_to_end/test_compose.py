"""docker-compose.yml and the Dockerfile as far as they can be checked without a Docker engine.

Commands, variables, folders and passwords are held against the code: in seconds, and everywhere.
`make test-compose` really runs them.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from data.database import Database
from orchestration.__main__ import parser
from orchestration.defs.dagster_service import COMMANDS
from orchestration.sbom import bill_of_materials
from serving.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PACKAGES = ("app-packages", "orchestrator-packages")
SECRETS = {
    "STREAMFLOW_PG_PASSWORD": "an owner's password",
    "STREAMFLOW_PG_STEPS_PASSWORD": "the steps' password",
    "STREAMFLOW_PG_SERVING_PASSWORD": "a reader's password",
    "STREAMFLOW_API_KEYS": "0123456789abcdef0123456789abcdef",
}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())["services"]


def filled(text: str) -> str:
    """Each ${VARIABLE:-default} as it is when .env has the secrets and nothing else."""
    return re.sub(r"\$\{(\w+):?[-?]?(.*?)\}", lambda m: SECRETS.get(m[1], m[2]), text)


def test_it_follows_the_compose_specification() -> None:
    reason = "compose-spec has no wheel for this platform"
    PyCompose = pytest.importorskip("compose_spec", reason=reason).PyCompose  # noqa: N806
    resolved = filled(yaml.safe_dump(yaml.safe_load(FILE.read_text())))  # it knows no `<<:`
    assert set(PyCompose.from_yaml(resolved).service_names()) >= {"postgres", "api"}
    with pytest.raises(Exception, match=r"\w"):
        PyCompose.from_yaml(resolved.replace("healthcheck:", "helthcheck:"))


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
    for name in ("setup", "pipeline", "api", "docs"):
        assert set(services[name]["environment"]) <= known
    example = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.M))
    assert example == set(re.findall(r"\$\{(\w+)", FILE.read_text()))
    of_compose = {"STREAMFLOW_UID", "STREAMFLOW_GID", "STREAMFLOW_CODE_VERSION"}
    assert example <= known | of_compose


def test_nobody_but_set_up_is_waited_for(services: dict[str, Any]) -> None:
    """A pipeline that fails or is slow takes neither the API nor Dagster away."""
    for name in set(services) - {"postgres", "setup"}:
        assert services[name]["depends_on"] == {
            "setup": {"condition": "service_completed_successfully"}
        }, name


def test_what_runs_has_limits_and_no_privileges(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["mem_limit"], name
        assert service["logging"]["options"]["max-size"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        if name != "postgres":
            assert service["cap_drop"] == ["ALL"], name
            assert service["init"], name  # it passes SIGTERM on: a stop takes no ten seconds
            # A shell as process 1 would not; one that makes way for the program is none.
            assert service["command"][0] != "sh" or "exec " in service["command"][2], name


def test_every_model_that_is_built_or_applied_is_the_checkouts(services: dict[str, Any]) -> None:
    """Else the pipeline's older models would take away what `exec feast feast apply` has added."""
    for name in ("pipeline", "docs", "dagster-webserver", "dagster-daemon"):
        assert "./dbt_project:/streamflow/dbt_project:ro" in services[name]["volumes"], name
    assert services["feast"]["volumes"] == [".:/streamflow"]


def test_mounted_folders_are_in_git() -> None:
    """Docker makes a missing one as root, and then nobody else may write there."""
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for folder in ("data/drops", "data/processed", "dbt_project"):
        assert [name for name in tracked if name.startswith(f"{folder}/")], folder


def test_the_api_gets_the_serving_roles_password_only(services: dict[str, Any]) -> None:
    assert "STREAMFLOW_PG_PASSWORD" not in services["api"]["environment"]


def test_only_set_up_gets_the_owners_password(services: dict[str, Any]) -> None:
    owner = SECRETS["STREAMFLOW_PG_PASSWORD"]
    told = {
        name
        for name, service in services.items()
        for value in (service.get("environment") or {}).values()
        if owner in filled(value)
    }
    assert told == {"postgres", "setup"}
    for name in ("pipeline", "feast", "docs", "dagster-webserver", "dagster-daemon"):
        assert services[name]["environment"]["STREAMFLOW_PG_USER"] == "streamflow_steps", name
        assert services[name]["environment"]["STREAMFLOW_PG_ROLES"] == "on", name


def test_the_apis_settings_are_accepted_with_a_key_and_refused_without(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in services["api"]["environment"].items():
        monkeypatch.setenv(name, filled(value))
    Settings().check()
    monkeypatch.delenv("STREAMFLOW_API_KEYS")
    with pytest.raises(ValueError, match="API key"):
        Settings().check()


def test_the_commands_exist(services: dict[str, Any]) -> None:
    pipeline = services["pipeline"]["command"]
    assert pipeline[:3] == ["python", "-m", "orchestration"]
    assert parser().parse_args(pipeline[3:]).drops == Path("data/drops")
    assert services["setup"]["command"] == ["python", "-m", "data", "setup"]
    help_text = subprocess.run(
        [sys.executable, "-m", "data", "--help"], capture_output=True, text=True, cwd=ROOT
    ).stdout
    assert re.search(r"^\s+setup\s", help_text, re.M)
    assert services["api"]["command"] == ["python", "-m", "serving"]
    assert importlib.util.find_spec("serving.__main__")
    for name in ("dagster-webserver", "dagster-daemon"):
        python, _, module, service = services[name]["command"]
        assert (python, module) == ("python", "orchestration.defs.dagster_service")
        assert service in COMMANDS


def test_dbts_documentation_is_where_the_page_links_to(services: dict[str, Any]) -> None:
    port = urlsplit(Settings.model_fields["docs_url"].default).port
    assert services["docs"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"http.server {port} " in services["docs"]["command"][2]


def test_postgres_is_set_up_like_the_embedded_one(services: dict[str, Any]) -> None:
    from data.postgres.server import CONF

    ours = dict(re.findall(r"^(\w+) = '?([^'\n]+)'?$", CONF, re.M))
    theirs = dict(re.findall(r"-c (\w+)=(\S+)", services["postgres"]["command"]))
    assert theirs["timezone"] == "UTC"
    assert {name: ours[name] for name in theirs} == theirs
    assert services["postgres"]["ports"] == [
        f"127.0.0.1:{Database.model_fields['port'].default}:5432"
    ]
    assert services["setup"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


def test_the_dockerfile_copies_what_is_there_and_ignores_nothing_it_needs() -> None:
    kept = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.M)
    copies = re.findall(r"^COPY ([^-].*) \S+$", DOCKERFILE, re.M)
    sources = {source for line in copies for source in line.split()}
    assert sources == set(kept)
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_images_pip_is_the_makefiles() -> None:
    (pin,) = re.findall(r"^PIP_PIN := (.+)$", (ROOT / "Makefile").read_text(), re.M)
    assert f"'{pin}'" in DOCKERFILE


def test_packages_come_before_the_code_and_the_account_is_a_number() -> None:
    """A changed line of code must not cost minutes of pip; Kubernetes wants to see a number."""
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM|\Z)", DOCKERFILE, re.M | re.S))
    for name, content in stages.items():
        assert ("pip install" in content) == (name in ("python", *PACKAGES)), name
        assert ("COPY data" in content) == (name == "code"), name
    for name in ("app", "orchestrator"):
        assert re.findall(r"^USER (.+)$", stages[name], re.M) == ["1000:1000"]
        assert "HEALTHCHECK" in stages[name]
        assert "org.opencontainers.image.revision" in stages[name]


def test_the_orchestrators_lock_is_the_dev_locks_without_its_tools() -> None:
    def pinned(file: str) -> set[str]:
        extras_left_out = re.sub(
            r"^(\S+?)\[\S+?\]==", r"\1==", (ROOT / file).read_text(), flags=re.M
        )
        return set(re.findall(r"^\S+==\S+", extras_left_out, re.M))

    app, orchestrator, dev = (
        pinned(f"requirements{name}.lock") for name in ("", "-orchestrator", "-dev")
    )
    assert app < orchestrator < dev
    named = {line.partition("==")[0].partition("[")[0] for line in orchestrator}
    assert {"dagster", "dagster-dbt", "dagster-postgres", "dagster-webserver"} <= named
    assert not named & {"pytest", "ruff", "hypothesis", "schemathesis", "sqlfluff", "compose-spec"}


def test_the_bill_of_materials_names_what_is_installed() -> None:
    bill = bill_of_materials()
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    found = {part["purl"]: part for part in bill["components"]}
    assert len(found) == len(bill["components"])
    feast = found[f"pkg:pypi/feast@{metadata.version('feast')}"]
    assert feast["licenses"]
    assert bill_of_materials() == bill
