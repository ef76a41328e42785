"""The arrows of the data flow, held by what the code says.

If one of these fails, a step reads what it must not know: features that are not tested yet, rows
that are not features, or a database that the API's role may not enter.
"""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = ("raw", "staging", "features", "published", "online", "ledger")
IN_SQL = re.compile(rf"\b(?:from|join|into|update|table|view|copy)\s+({'|'.join(SCHEMAS)})\.", re.I)

# Package -> the schemas its SQL may name. Orchestration only looks at outcomes.
MAY_NAME = {
    "data": {"raw"},
    "feature_repo": {"published", "online", "ledger"},
    "serving": {"online", "ledger"},
    "orchestration": {"published", "online", "ledger"},
}
# Folder -> the packages of ours that it may import. What feature_repo holds is streamflow_feast.
MAY_IMPORT = {
    "data": {"data"},
    "feature_repo": {"data", "streamflow_feast"},
    "serving": {"data", "streamflow_feast", "serving"},
    "orchestration": {"data", "streamflow_feast", "serving", "orchestration"},
}
OURS = {"data", "streamflow_feast", "serving", "orchestration", "tests"}
# A command for people who stand in that folder; nothing imports it.
COMMANDS = {"feature_repo/build_training_dataset.py": {"orchestration"}}
EXCEPT = {
    # Notes which steps of the schema it has applied.
    "data/postgres/migrate.py": {"ledger"},
    # Empties the raw tables of the scratch databases that it makes.
    "orchestration/leak_check/check.py": set(SCHEMAS),
    # As the owner: everywhere somebody is, what is old, what is to be saved.
    "orchestration/upkeep/backup.py": {"raw"},
    "orchestration/upkeep/erase.py": {"raw"},
    "orchestration/upkeep/erased_list.py": {"raw"},
    "orchestration/upkeep/prune.py": {"raw", "features"},
    # Says how old the drops are: reads the record of loads, no row of a drop.
    "orchestration/report/month.py": {"raw"},
}


def modules(package: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        yield path, ast.parse(path.read_text())


def named_schemas(module: ast.Module) -> set[str]:
    """Schemas that the module's SQL names, in strings or as the first part of an Identifier."""
    found = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {schema.lower() for schema in IN_SQL.findall(node.value)}
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "Identifier":
            first = node.args[0] if len(node.args) > 1 else None
            if isinstance(first, ast.Constant) and first.value in SCHEMAS:
                found.add(first.value)
    return found


@pytest.mark.parametrize("package", MAY_NAME)
def test_each_package_names_only_the_schemas_upstream_of_it(package: str) -> None:
    for path, module in modules(package):
        name = path.relative_to(ROOT).as_posix()
        allowed = MAY_NAME[package] | EXCEPT.get(name, set())
        assert named_schemas(module) <= allowed, name


def test_the_search_for_schemas_finds_them() -> None:
    code = 'q = "select 1 from raw.users"\nt = sql.Identifier("features", table)\n'
    assert named_schemas(ast.parse(code)) == {"raw", "features"}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_only_what_lies_before_them(package: str) -> None:
    for path, module in modules(package):
        packages = {name.split(".")[0] for name in imported(module)}
        name = path.relative_to(ROOT).as_posix()
        assert packages & OURS <= MAY_IMPORT[package] | COMMANDS.get(name, set()), name


def imported(module: ast.Module) -> set[str]:
    """The names that a module imports anywhere in it, `a.b` for `from a import b` too."""
    found = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """The groups of files that import each other, in functions too: neither can be read first."""
    sorter = graphlib.TopologicalSorter(imports)
    try:
        sorter.prepare()
    except graphlib.CycleError as found:
        return [found.args[1]]
    return []


def test_no_file_is_in_a_circle() -> None:
    parsed = {}
    for package in MAY_IMPORT:
        for path, module in modules(package):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts[1:] if parts[0] == "feature_repo" else parts
            parsed[".".join(parts).removesuffix(".__init__")] = imported(module)
    imports = {name: {other for other in seen if other in parsed} for name, seen in parsed.items()}
    assert sum(map(len, imports.values())) > 100, "hardly an import was understood"
    assert circles(imports) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert not circles({"a": {"b", "c"}, "b": {"c"}, "c": set()})


def test_only_staging_reads_sources() -> None:
    models = ROOT / "dbt_project" / "models"
    readers = {
        path.relative_to(models).parts[0]
        for path in models.rglob("*.sql")
        if "source(" in path.read_text()
    }
    assert readers == {"staging"}


def test_no_model_names_a_schema_by_hand() -> None:
    """A name by hand is an arrow that dbt, its lineage and its order of building do not see."""
    by_hand = re.compile(rf"(?<!distinct )\b(?:from|join)\s+(?:{'|'.join(SCHEMAS)})\.", re.I)
    models = ROOT / "dbt_project" / "models"
    assert not [path.name for path in models.rglob("*.sql") if by_hand.search(path.read_text())]


def test_the_top_level_holds_what_the_readme_names() -> None:
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True
    ).stdout
    top = {name.partition("/")[0] for name in tracked.splitlines()}
    files = {
        "CHANGELOG.md", "CONTRIBUTING.md", "Dockerfile", "LICENSE", "Makefile", "README.md",
        "SECURITY.md", "docker-compose.yml", "pyproject.toml", "requirements-dev.lock",
        "requirements-orchestrator.lock", "requirements-spark.lock", "requirements.lock",
    }  # fmt: skip
    hidden = {
        ".ci", ".dockerignore", ".env.example", ".gitignore", ".pre-commit-config.yaml",
        ".sqlfluff", ".sqlfluffignore",
    }  # fmt: skip
    folders = {
        "data", "dbt_project", "docs", "feature_repo", "orchestration", "serving", "tests"
    }  # fmt: skip
    assert top <= files | hidden | folders
