"""What the documents say is so: settings, alerts, the index of decisions, versions.

If one of these fails, somebody sets a variable that nobody reads, or waits for an alert that cannot
come.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from data import __version__
from data.database import Database
from data.postgres.roles import OWNED
from serving import metrics
from serving.settings import Settings
from tests.tools.decisions import index

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CODE = (
    "data", "dbt_project", "feature_repo", "serving", "orchestration", "docker-compose.yml",
    "Dockerfile", "Makefile", ".env.example",
)  # fmt: skip
BEGINNINGS = {"STREAMFLOW_PG", "STREAMFLOW_API", "STREAMFLOW_PG_SERVING"}  # of several names
ALERTS = DOCS / "alerts.yml"


def settings() -> dict[str, str]:
    """variable -> default, as docs/settings.md has them."""
    rows = re.findall(
        r"^\| (STREAMFLOW_\w+) \| (.*?) ?\|", (DOCS / "settings.md").read_text(), re.M
    )
    assert len(rows) == len(dict(rows)), "a variable is there twice"
    return dict(rows)


def read_by_the_code() -> set[str]:
    """The variables that are named anywhere in the code, or are fields of its settings."""
    text = subprocess.run(
        ["git", "-C", str(ROOT), "grep", "-hoE", "STREAMFLOW_[A-Z_]+", "--", *CODE],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    named = {name.rstrip("_").removesuffix("_FILE") for name in text.split()} - BEGINNINGS
    named |= {f"STREAMFLOW_PG_{field.upper()}" for field in Database.model_fields}
    named |= {f"STREAMFLOW_API_{field.upper()}" for field in Settings.model_fields}
    return named


def test_settings_names_every_variable_and_no_other() -> None:
    assert set(settings()) == read_by_the_code()


def test_settings_says_the_defaults() -> None:
    told = settings()
    for prefix, model in (("STREAMFLOW_PG_", Database), ("STREAMFLOW_API_", Settings)):
        for name, field in model.model_fields.items():
            default = field.get_default()
            if hasattr(default, "get_secret_value"):
                default = default.get_secret_value()
            if isinstance(default, Path):
                default = default.relative_to(ROOT).as_posix()
            shown = {True: "true", False: "false", None: ""}.get(default, str(default))
            shown = shown if isinstance(default, bool | None) else str(default)
            assert told[f"{prefix}{name.upper()}"] == shown, name


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_alerts_ask_for_what_the_api_exposes() -> None:
    """By the names of its metrics, which a renamed one would leave behind."""
    exposed = {"up"}
    for metric in vars(metrics).values():
        for family in metric.describe() if isinstance(metric, MetricWrapperBase) else ():
            ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
            exposed |= {family.name + end for end in ends.get(family.type, [""])}
    source = (ROOT / "serving" / "metrics.py").read_text()
    exposed |= set(re.findall(r'GaugeMetricFamily\(\s*"(\w+)"', source))
    asked = set()
    for rule in rules():
        plain = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", rule["expr"])
        asked |= set(re.findall(r"\bstreamflow_\w+|\bup\b", plain))
    assert asked <= exposed
    assert len(asked) >= 6


def test_alerts_are_rules_as_prometheus_reads_them() -> None:
    """By promtool where it is installed (Debian: prometheus); otherwise by their form."""
    if promtool := shutil.which("promtool"):
        checked = subprocess.run(
            [promtool, "check", "rules", str(ALERTS)], capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    for rule in rules():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert {"summary", "action"} == set(rule["annotations"]), rule["alert"]
        assert re.fullmatch(r"(\d+(ms|s|m|h|d))+", rule.get("for", "0s")), rule["alert"]
        problem = wrong_expression(rule["expr"])
        assert problem is None, f"{rule['alert']}: {problem}"


TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<name>[a-zA-Z_:][\w:]*)|(?P<text>"[^"]*")"""
    r"""|(?P<range>\[\d+[smhd]\])|(?P<sign>==|!=|>=|<=|=~|!~|[-+*/%^<>=(){},]))"""
)
AGGREGATIONS = {"sum", "avg", "max", "min", "count"}
FUNCTIONS = {"rate", "increase", "histogram_quantile"}


def wrong_expression(text: str) -> str | None:
    """What is wrong with a PromQL expression of the kind used here; None when nothing is."""
    place, tokens = 0, []
    text = text.strip()
    while place < len(text):
        found = TOKEN.match(text, place)
        if not found:
            return f"not understood: {text[place:]!r}"
        tokens.append((found.lastgroup, found[found.lastgroup or 0]))
        place = found.end()
    reader = _Reader([*tokens, ("end", "")])
    try:
        reader.expression()
        return None if reader.kind == "end" else f"more than one expression: {reader.word!r}"
    except ValueError as error:
        return str(error)


class _Reader:
    """Recursive descent over the tokens."""

    def __init__(self, tokens: list[tuple[str | None, str]]) -> None:
        self.tokens = tokens

    @property
    def kind(self) -> str | None:
        return self.tokens[0][0]

    @property
    def word(self) -> str:
        return self.tokens[0][1]

    def take(self, word: str | None = None) -> str:
        if word is not None and self.word != word:
            raise ValueError(f"expected {word!r} and found {self.word!r}")
        return self.tokens.pop(0)[1]

    def expression(self) -> None:
        self.operand()
        while self.word in {"+", "-", "*", "/", "%", "^", "==", "!=", ">", "<", ">=", "<="}:
            self.take()
            self.operand()

    def operand(self) -> None:
        if self.kind == "number":
            self.take()
        elif self.word == "(":
            self.take("(")
            self.expression()
            self.take(")")
        elif self.word in AGGREGATIONS:
            self.take()
            if self.word == "by":
                self.take()
                self.names("(", ")")
            self.take("(")
            self.expression()
            self.take(")")
        elif self.word in FUNCTIONS:
            self.take()
            self.take("(")
            self.expression()
            while self.word == ",":
                self.take(",")
                self.expression()
            self.take(")")
        elif self.kind == "name":
            self.take()
            if self.word == "{":
                self.labels()
            if self.kind == "range":
                self.take()
        else:
            raise ValueError(f"expected something and found {self.word!r}")

    def names(self, first: str, last: str) -> None:
        self.take(first)
        while self.word != last:
            if self.kind != "name":
                raise ValueError(f"expected a label and found {self.word!r}")
            self.take()
            if self.word == ",":
                self.take()
        self.take(last)

    def labels(self) -> None:
        self.take("{")
        while self.word != "}":
            if self.kind != "name":
                raise ValueError(f"expected a label and found {self.word!r}")
            self.take()
            if self.word not in {"=", "!=", "=~", "!~"}:
                raise ValueError(f"expected a comparison and found {self.word!r}")
            self.take()
            if self.kind != "text":
                raise ValueError(f"expected a text and found {self.word!r}")
            self.take()
            if self.word == ",":
                self.take()
        self.take("}")


@pytest.mark.parametrize(
    "text",
    ["sum(rate(x[5m])", "x{status=5}", "rate(x[5 minutes])", "x > > 1", "", "sum by le (x)", "x y"],
)
def test_a_wrong_expression_is_found(text: str) -> None:
    assert wrong_expression(text) is not None


def test_the_index_of_decisions_has_each_of_them_with_its_date() -> None:
    """`python -m tests.tools.decisions` writes it."""
    written = (DOCS / "decisions" / "README.md").read_text()
    for line in index():
        number, title = re.match(r"\| \[(\d+)\]\(\S+\) \| (.*?) \|", line).groups()  # type: ignore[union-attr]
        assert re.search(
            rf"^\| \[{number}\]\(\S+\) \| {re.escape(title)} \| 20\d\d-\d\d-\d\d \|$", written, re.M
        ), f"{number} is missing: python -m tests.tools.decisions"


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert versions[0] == __version__


def test_operations_names_every_role() -> None:
    text = (DOCS / "operations.md").read_text()
    assert set(OWNED.values()) <= set(re.findall(r"streamflow_(\w+)", text))
