"""The command to run next, as it is typed where this process runs.

Messages name `make` targets. An image has no make and nobody sits in it, so there (Dockerfile sets
STREAMFLOW_IN_IMAGE) the same steps are named as docker-compose.yml runs them.
"""

from __future__ import annotations

import os
import re

STEP = "docker compose run --rm pipeline python -m orchestration"
INSTEAD = {
    "up": "docker compose up -d postgres setup",
    "pipeline": "docker compose run --rm pipeline",
    "generate": "docker compose run --rm pipeline python -m data generate",
    "load": f"{STEP} ingest",
}
OPTIONS = {
    "AGAIN": "--again",
    "ALLOW_LEAVING": "--allow-leaving ",
    "AS_OF": "--as-of ",
    "DROP": "",
    "FROM": "--from ",
    "FULL": "--full",
    "KEEP": "--keep ",
    "KNOWN_AT": "--known-at ",
    "LABELS": "--labels ",
    "RECOMPUTE": "--recompute",
    "QUARANTINE": "--quarantine",
    "SERVICE": "--service ",
    "USER": "",
}
MAKE = re.compile(r"\bmake((?: [a-z][a-z-]*)+)((?: [A-Z_]+=[^\s;,|`]+)*)")


def here(text: str) -> str:
    """`text` with its make commands as they are typed here; unchanged outside of an image."""
    if not os.environ.get("STREAMFLOW_IN_IMAGE"):
        return text
    return MAKE.sub(_command, text)


def _command(found: re.Match[str]) -> str:
    options = ""
    for given in found[2].split():
        name, _, value = given.partition("=")
        if name == "TARGET":  # a container's environment has said so already
            continue
        option = OPTIONS[name]
        options += f" {option}" if option.startswith("--") and value == "1" else f" {option}{value}"
    commands = [INSTEAD.get(target, f"{STEP} {target}") for target in found[1].split()]
    return " && ".join(commands) + options
