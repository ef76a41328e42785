"""Data and models broken on purpose: each kind of dbt test fails once, and nobody sees the rows.

If one of these fails, a bad month reaches training sets and the API, or people are not told which
rows are wrong and what to run next.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data.database import Database
from orchestration import steps
from serving.main import create_app
from serving.settings import Settings
from streamflow_feast.training.training_set import write_training_set
from tests.dbt import builds
from tests.dbt.builds import Outcome, everything, execute, rows, unpublished_rows, values
from tests.dbt.conftest import Built
from tests.serving.hand_made import running

BAD_LOAD = 10**9
STAMPS = f"'2024-01-01', {BAD_LOAD}, now()"  # as_of, load_id, loaded_at
BAD_ROWS = [
    f"insert into raw.loads overriding system value values ({BAD_LOAD}, 'usage', '2024-01-01',"
    " now(), 1, 1, 0, '')",
    # not_null: an amount that is missing
    "alter table raw.payments alter column amount drop not null",
    "insert into raw.payments (payment_id, user_id, attempted_at, status, as_of, load_id,"
    f" loaded_at) values ('p1', 'h000-a', '2024-01-01', 'failed', {STAMPS})",
    # accepted_values
    "insert into raw.payments (payment_id, user_id, attempted_at, amount, status, as_of, load_id,"
    f" loaded_at) values ('p2', 'h000-a', '2024-01-01', 1, 'maybe', {STAMPS})",
    # in_range; a user whom nobody lists is a warning
    "insert into raw.usage (session_id, user_id, started_at, watch_minutes, skips, as_of, load_id,"
    f" loaded_at) values ('s1', 'nobody', '2024-01-01', 1, -1, {STAMPS})",
    # resolved_after_opened
    "insert into raw.support (ticket_id, user_id, opened_at, resolved_at, category, as_of, load_id,"
    f" loaded_at) values ('t1', 'h000-a', '2024-01-02', '2024-01-01', 'ticket/billing', {STAMPS})",
    # grain: two statements of one ticket in effect
    "insert into raw.support (ticket_id, user_id, opened_at, category, as_of, load_id, loaded_at)"
    f" select 't2', 'h000-a', '2024-01-01', 'ticket/billing', day, {BAD_LOAD}, now()"
    " from unnest(array['2024-01-01', '2024-01-02']::timestamptz[]) as day",
]
REPAIR = [
    f"delete from raw.{table} where load_id = {BAD_LOAD}"
    for table in ("usage", "payments", "support", "loads")
]


@dataclass(frozen=True)
class Broken:
    """Statements against the raw tables, changes of the dbt project, and who must notice."""

    kinds: set[str]
    statements: list[str]
    changes: list[tuple[str, str, str]]


BROKEN = {
    "rows": Broken(
        {
            "not_null",
            "accepted_values",
            "in_range",
            "resolved_after_opened",
            "grain",
        },
        BAD_ROWS,
        [],
    ),
    "a model that loses users, a window that ends too late": Broken(
        {"covers_the_spine", "unit_test"},
        [],
        [
            (
                "models/features/user_features.sql",
                "    where pairs.in_spine\n",
                "    where pairs.in_spine and pairs.user_id not like 'h000%'\n",
            ),
            (
                "macros/features/events.sql",
                "days' and {{ event_at }} < {{ as_of }}",
                "days' and {{ event_at }} <= {{ as_of }}",
            ),
        ],
    ),
    "an as_of twice": Broken(
        {"unique"},
        [],
        [
            (
                "models/intermediate/int_calendar.sql",
                "select * from compared",
                "select * from compared union all (select * from compared limit 1)",
            ),
        ],
    ),
}


def failed_kinds(outcome: Outcome) -> set[str]:
    """The kinds of dbt test that failed: the generic test's name, or unit_test."""
    failed = {name for name, status in outcome.statuses.items() if status in ("fail", "error")}
    kinds = {_kinds().get(name) for name in failed}
    return {kind for kind in kinds if kind}


def _kinds() -> dict[str, str]:
    """Unique id -> kind of every test that can fail a build, from dbt's manifest."""
    manifest = json.loads((Path(os.environ["DBT_TARGET_PATH"]) / "manifest.json").read_text())
    kinds = {
        name: (node.get("test_metadata") or {"name": "singular"})["name"]
        for name, node in manifest["nodes"].items()
        if node["resource_type"] == "test" and node["config"]["severity"].lower() == "error"
    }
    return kinds | dict.fromkeys(manifest["unit_tests"], "unit_test")


@pytest.mark.parametrize("what", BROKEN)
def test_a_failing_test_publishes_nothing_and_says_what_to_do(
    built: Built, project: Callable[..., Path], what: str
):
    before, broken = everything(), BROKEN[what]
    built.deliver()
    execute(*broken.statements)
    outcome = builds.dbt("build", project=project(*broken.changes))
    assert not outcome.success
    assert failed_kinds(outcome) == broken.kinds
    assert everything() == before
    assert builds.newest_publication() == built.known_at

    verdict = outcome.output.partition("Nothing was published: ")[2].partition("Readers see")[0]
    failed = [
        name.split(".")[3 if name.startswith("unit_test") else 2]
        for name, status in outcome.statuses.items()
        if status == "fail"
    ]
    named = [name for name in failed if f" {name} " in verdict]
    assert named, verdict
    if "unit_test" not in broken.kinds:
        assert f"dbt show --select {named[0]}" in verdict
        (query,) = [word for word in verdict.split() if word.endswith(".sql.")]
        assert "select" in Path(query.rstrip(".")).read_text()
    assert "then: dbt build" in verdict

    if broken.statements:  # repaired, the next build carries on where the last good one was
        execute(*REPAIR)
        assert builds.build().success
        assert not unpublished_rows()
        values(built.loaded)


def test_each_kind_of_dbt_test_is_broken_above(built: Built):
    assert builds.dbt("parse").success
    assert set(_kinds().values()) == set.union(*(broken.kinds for broken in BROKEN.values()))


def test_a_bad_month_reaches_neither_the_training_set_nor_the_api(built: Built, tmp_path: Path):
    steps.build()  # for a manifest beside the database
    steps.apply()
    steps.materialize()
    before = served(tmp_path / "before")
    built.deliver()
    execute(*BAD_ROWS)
    with pytest.raises(steps.StepError) as error:
        steps.build()
    assert "nothing was published" in str(error.value)
    assert "dbt show --select" in str(error.value)
    assert "then run: make build" in str(error.value)
    steps.apply()
    steps.materialize()
    assert served(tmp_path / "after") == before
    moved = "select changed + removed from ledger.materializations order by materialization_id"
    assert [n for (n,) in rows(f"{moved} desc limit 5")] == [0] * 5

    execute(*REPAIR)
    steps.build()
    steps.materialize()
    assert served(tmp_path / "repaired") != before


def served(folder: Path) -> tuple[list[bytes], dict[str, Any]]:
    """The files of a training set of all snapshots, and every user's answer from the API."""
    (days,) = rows("select array_agg(distinct as_of) from published.churn_labels_latest")[0]
    made = write_training_set(sorted(days), out=folder)
    files = [file.read_bytes() for file in made.files]
    users = [user for (user,) in rows("select distinct user_id from published.user_features")]

    async def ask() -> dict[str, Any]:
        async with running(create_app(Settings(), Database())) as client:
            answers = {}
            for user in users:
                answers[user] = (await client.get(f"/features/{user}")).json()["features"]
            return answers

    return files, asyncio.run(ask())
