"""docs/add-a-table.md to the letter: a new event table goes through to training set and online.

If this fails, the text leaves something out that a new table needs, or something in the project has
to be told of each table again.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "add-a-table.md").read_text()
# A path at the end of a line, and what stands in the file, or at its end.
FILE = re.compile(r"(?P<end>At the end of )?`(?P<path>[\w/.-]+)`\n\n```\w+\n(?P<text>.*?)```", re.S)
USER = "0004-YQQRE"


def block(language: str) -> str:
    (only,) = re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)
    return only


@pytest.fixture
def walk(own_copy: Path, shell: Callable[..., str]) -> Callable[[str], str]:
    """Runs commands in a copy of the project, on a database server of its own."""
    return lambda commands: shell(f"set -e\n{commands}", own_copy)


def write_files(project: Path) -> list[str]:
    """What the text says each file holds; which files these are."""
    names = []
    for found in FILE.finditer(TEXT):
        path = project / found["path"]
        assert path.exists() == bool(found["end"]), path
        with path.open("a") as file:
            file.write(found["text"])
        names.append(found["path"])
    return names


def test_a_table_is_added_by_the_text_alone(walk: Callable[[str], str], project_copy: Path) -> None:
    walk(
        "make generate USERS=2000 MONTHS=6 && python -m data up && python -m data load data/drops/*"
    )
    walk("make build apply materialize")
    names = write_files(project_copy)
    assert [name for name in names if not name.startswith("data/drops")] == [
        "dbt_project/models/staging/_sources.yml",
        "dbt_project/models/staging/stg_searches.sql",
        "dbt_project/models/features/search_features.sql",
        "dbt_project/models/features/search_features.yml",
        "dbt_project/models/exposures.yml",
    ]
    said = walk(block("sh"))
    assert "searches" in said
    with (project_copy / "data/processed/training_df.csv").open(newline="") as lines:
        rows = {row["user_id"]: row for row in csv.DictReader(lines)}
    assert (rows[USER]["searches_30d"], rows[USER]["futile_search_share_30d"]) == ("2", "0.5")
    others = {row["searches_30d"] for user, row in rows.items() if user != USER}
    assert others == {"0"}, "who searched nothing has none"
    (promised,) = re.findall(r"^# \{(.*), \.\.\.", TEXT, re.M)
    answer = walk(f"python - <<'END'\n{block('python')}END")
    values = promised.split(", ")
    assert len(values) == 3
    for value in values:
        assert value in answer
