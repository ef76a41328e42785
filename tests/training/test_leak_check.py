"""The leak check passes the project's models and catches models that look into the future.

If it let one through, a model would be trained on what nobody could know at the time.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest

from data.database import Database
from orchestration.leak_check import check as leak_check
from orchestration.leak_check import histories
from orchestration.leak_check.histories import midnight
from orchestration.steps import DBT_PROJECT

HEAD = """
version: 2
models:
  - name: {name}
    config: {{meta: {{feast: {{entity: user}}}}{more}}}
    data_tests: [{{grain: {{arguments: {{columns: [user_id, as_of, known_at]}}}}}}]
    columns:
      - {{name: user_id, data_type: text}}
      - {{name: as_of, data_type: timestamp with time zone}}
      - {{name: known_at, data_type: timestamp with time zone}}
      - {{name: is_retracted, data_type: boolean}}
"""
MODEL = """
with pairs as (select user_id, as_of, state_as_of from {{{{ ref('spine_user') }}}}),
final as (select pairs.user_id, pairs.as_of, {expressions} from pairs),
{{{{ versions('final', 'pairs') }}}}
"""
# Columns of a model of one's own: name, expression. The first one is as it should be.
HONEST = (
    "payments_90d",
    "(select count(*) from {{ ref('stg_payments') }} as p where p.user_id = pairs.user_id"
    " and p.attempted_at >= pairs.as_of - interval '90 days' and p.attempted_at < pairs.as_of)",
)
PLANTED = (
    (
        "window_with_its_end",
        "(select count(*) from {{ ref('stg_payments') }} as p where p.user_id = pairs.user_id and"
        " p.attempted_at >= pairs.as_of - interval '90 days' and p.attempted_at <= pairs.as_of)",
    ),
    (
        "current_months",
        "(select s.months_active from {{ ref('stg_subscriptions') }} as s"
        " where s.user_id = pairs.user_id order by s.as_of desc limit 1)",
    ),
    (
        "tickets_ever",
        "(select count(*) from {{ ref('stg_support') }} as t where t.user_id = pairs.user_id)",
    ),
)


FARTHER = (
    "(select count(*) from {{ payments.relation }} as p where p.user_id = pairs.user_id and"
    " p.attempted_at >= pairs.as_of - interval '180 days' and p.attempted_at < pairs.as_of)"
)


def add_model(project: Path, name: str, columns: Any, more: str = "") -> None:
    """A feature table of bigint columns; `more` of dbt's configuration."""
    folder = project / "models" / "features"
    expressions = ", ".join(f"{sql} as {column}" for column, sql in columns)
    (folder / f"{name}.sql").write_text(MODEL.format(expressions=expressions))
    listed = "".join(f"      - {{name: {column}, data_type: bigint}}\n" for column, _ in columns)
    (folder / f"{name}.yml").write_text(HEAD.format(name=name, more=more).lstrip() + listed)


def reading_farther(project: Path) -> None:
    """A model that says 30 days at its top, and counts payments of 180 days in a subquery."""
    add_model(project, "farther_features", [("payments_180d", FARTHER)])
    model = project / "models" / "features" / "farther_features.sql"
    text = model.read_text()
    spine = "select user_id, as_of, state_as_of from {{ ref('spine_user') }}"
    assert text.count(spine) == 1
    pairs = "{{ pairs_to_compute(entity='user', events=[payments]) }}"
    says = "{% set payments = events('payments', at='attempted_at', reach_days=30) %}\n"
    model.write_text(
        says + text.replace(spine, pairs).replace("from pairs)", "from pairs where in_spine)")
    )


def databases() -> set[str]:
    with psycopg.connect(Database().conninfo()) as connection:
        return {name for (name,) in connection.execute("select datname from pg_database")}


def test_the_projects_own_models_do_not_leak(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    before = databases()
    assert leak_check.main([]) == 0
    assert capsys.readouterr().out.startswith("no leak, nothing stale: 36 features of 7 models, ")
    assert databases() == before


def test_planted_leaks_are_found_and_named(database: Database, tmp_path: Path) -> None:
    project = tmp_path / "dbt_project"
    shutil.copytree(DBT_PROJECT, project, ignore=shutil.ignore_patterns("target", "logs"))
    add_model(project, "planted_features", [HONEST, *PLANTED])
    # Not append-only: a new version takes the place of what was known before.
    rewriting = ", incremental_strategy: delete+insert, unique_key: [user_id, as_of]"
    add_model(project, "rewritten_features", [HONEST], rewriting)

    with pytest.raises(AssertionError) as raised:
        leak_check.assert_no_leaks(project)
    lines = str(raised.value).splitlines()

    future = {line.split(" leaks: ")[0] for line in lines if "were moved or deleted" in line}
    assert future == {f"planted_features.{column}" for column, _ in PLANTED}
    rewritten = {line.split(".")[0] for line in lines if "rewrote what was known before" in line}
    assert rewritten == {"rewritten_features"}
    (window,) = [line for line in lines if line.startswith("planted_features.window")]
    assert re.search(r" leaks: user-\d+ at 2024-08-08 was \d+ and is \d+ after raw rows", window)


def test_a_model_that_cannot_be_checked_is_named(database: Database, tmp_path: Path) -> None:
    project = tmp_path / "dbt_project"
    shutil.copytree(DBT_PROJECT, project, ignore=shutil.ignore_patterns("target", "logs"))
    add_model(project, "broken_features", [("x", "nothing.at_all")])
    with pytest.raises(leak_check.LeakCheckError, match=r"broken_features: .*nothing"):
        leak_check.check(project)
    assert not [name for name in databases() if "leak_check" in name]


def test_another_future_changes_nothing_before_the_cut() -> None:
    """Otherwise the check would blame models for a different past."""
    drops = histories.draw(Random(1), users=150)
    cut = drops[-2].day
    future, changed = histories.another_future(Random(2), drops, cut)
    assert changed > 100

    def past(of: list[histories.Drop]) -> set[str]:
        rows = set()
        for drop in of:
            for table in histories.TABLES:
                for row in drop.files.get(table.name, ()):
                    at = row[table.event_time] if table.event_time else None
                    if table.is_event and at < midnight(cut):
                        known = {k: v for k, v in row.items() if not _from(v, cut)}
                        rows.add(f"{drop.day} {table.name} {known}")
                    elif not table.is_event and (
                        drop.day < cut or (drop.day == cut and table.name != "labels")
                    ):
                        rows.add(f"{drop.day} {table.name} {row}")
        return rows

    def _from(value: object, cut: object) -> bool:
        return value is None or (hasattr(value, "hour") and value >= midnight(cut))

    assert past(future) == past(drops)
    exactly = [
        row
        for drop in drops
        for table in histories.TABLES
        if table.event_time
        for row in drop.files.get(table.name, ())
        if row[table.event_time] == midnight(cut)
    ]
    assert len(exactly) > 10, "hardly an event lies exactly at the cut"


def test_a_model_that_reads_farther_than_it_says_is_found(
    database: Database, tmp_path: Path
) -> None:
    """Else its late rows change nothing, and every other test passes."""
    project = tmp_path / "dbt_project"
    shutil.copytree(DBT_PROJECT, project, ignore=shutil.ignore_patterns("target", "logs"))
    reading_farther(project)
    result = leak_check.check(project, users=60)
    assert [stale.model for stale in result.stale] == ["farther_features"]
    assert not result.leaks
    assert "farther_features goes stale" in str(result)
    assert "farther back, than it says at its top" in str(result)
    with pytest.raises(AssertionError, match="goes stale"):
        leak_check.assert_no_leaks(project, users=60)
