"""The OpenAPI document is complete, and whatever is sent, every answer fits it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from starlette.routing import Mount

from serving.main import create_app
from serving.problems import KINDS

HIDDEN = {"/", "/browse", "/docs", "/openapi.json"}  # for people, or the document itself


def test_every_route_is_documented() -> None:
    app = create_app()
    document = app.openapi()
    paths = {route.path for route in app.routes if not isinstance(route, Mount)} - HIDDEN
    assert paths == set(document["paths"])
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation.get("description"), (method, path)
            assert operation["responses"]["200"]["content"], (method, path)
            for status, response in operation["responses"].items():
                problem = "application/problem+json" in response.get("content", {})
                assert problem == (int(status) >= 400), (method, path, status)
    assert document["paths"]["/features/{user_id}"]["get"]["responses"]["200"]


def test_references_lead_somewhere() -> None:
    document = create_app().openapi()
    for reference in re.findall(r"#/components/schemas/(\w+)", str(document)):
        assert reference in document["components"]["schemas"]


def test_every_kind_of_problem_is_listed_and_used() -> None:
    folder = Path(__file__).resolve().parents[2] / "serving"
    used = set()
    for file in folder.rglob("*.py"):
        used |= set(re.findall(r'Problem\(\s*\d{3},\s*"([a-z-]+)"', file.read_text()))
    assert used == set(KINDS)
    assert create_app().openapi()["x-problems"] == KINDS


def test_fuzzed_from_its_own_document(quick_api: int) -> None:
    """No 5xx, no answer outside of the schema, nothing valid refused, nothing invalid accepted."""
    url = f"http://127.0.0.1:{quick_api}/openapi.json"
    command = [sys.executable, "-m", "schemathesis.cli", "run", url, "--seed", "1", "--no-color"]
    command += ["--max-examples", "60", "--phases", "examples,coverage,fuzzing,stateful"]
    # Join keys are those of the registry, and not of the document: most rows have a wrong one.
    of_keys = "^/(entities|get-online-features)"
    for chosen in (
        ["--exclude-path-regex", of_keys],
        ["--include-path-regex", of_keys, "--exclude-checks", "positive_data_acceptance"],
    ):
        done = subprocess.run(
            [*command, *chosen], capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stdout[-9000:] + done.stderr[-2000:]
        assert "passed" in done.stdout
