"""Passwords by file as well as by variable: STREAMFLOW_PG_PASSWORD_FILE for ..._PASSWORD.

For secrets that are mounted (Docker, Kubernetes, systemd), which no list of environments shows.
What a file holds becomes the variable of this process, because dbt's profiles.yml can read
variables only; in the images every Python does this at its start, plain `dbt` too. The API's keys
have a file of their own, which is read again and again (serving/settings.py).
"""

from __future__ import annotations

import os
from pathlib import Path

NAMES = (
    "STREAMFLOW_PG_PASSWORD",
    "STREAMFLOW_PG_SERVING_PASSWORD",
    "STREAMFLOW_PG_STEPS_PASSWORD",
)


class SecretError(ValueError):
    """A secret cannot be had as it was given; the text says which, and what to change."""


def take() -> None:
    """Set the variables whose files are given.

    Raises:
        SecretError: a file that cannot be read or is empty, or a secret given twice.
    """
    for name in NAMES:
        file = os.environ.get(f"{name}_FILE")
        if not file:
            continue
        try:
            secret = Path(file).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise SecretError(f"cannot read {name}_FILE {file}: {reason}") from None
        if not secret:
            raise SecretError(f"{name}_FILE {file} is empty: it should hold the password")
        # A process that one of ours started has both, the same.
        if os.environ.get(name) not in (None, "", secret):
            raise SecretError(f"{name} and {name}_FILE say different things: set one of them")
        os.environ[name] = secret


take()
