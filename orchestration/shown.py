"""What dbt and Feast tell while they work, down to the lines that people are shown."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any, TextIO


class Progress:
    """dbt's events, down to a line a table and a line a warning."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self.show = show
        self.verdict = ""
        self.invocation_id = ""
        self.warnings: list[str] = []

    def __call__(self, event: Any) -> None:
        name, info = event.info.name, event.info
        self.invocation_id = info.invocation_id or self.invocation_id
        if name == "LogModelResult" and event.data.status != "CREATE VIEW":
            data = event.data
            took = f"{data.execution_time:6.1f} s"
            self.show(f"  {data.node_info.node_name:<24} {data.status:<16} {took}")
        elif name == "LogTestResult" and event.data.status == "warn":
            message = f"{event.data.name}: {event.data.num_failures} rows"
            self.warnings.append(message)
            self.show(f"  warning: {message}")
        elif name == "JinjaLogInfo" and info.msg.startswith("Nothing was published: "):
            self.verdict = info.msg.removeprefix("Nothing was published: ")
        elif name == "JinjaLogInfo" and info.msg and not info.msg.startswith("Published: "):
            self.show(f"  {info.msg}")


class WithoutFeastsDates(io.TextIOBase):
    """Leaves out the start that Feast announces for each view: our engine does not go by it."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.line = out, ""

    def write(self, text: str) -> int:
        *whole, self.line = (self.line + text).split("\n")
        for line in whole:
            if line.strip() and not re.search(r"^Since the ttl is| from .* to .*:$", line):
                self.out.write(f"  {line}\n")
        self.out.flush()
        return len(text)
