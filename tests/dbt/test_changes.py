"""Definitions that change: readers follow the last publication, and never get a value nobody meant.

If one of these fails, a feature that was tried and taken back shows up in training sets or breaks
the audit for good, or a value is served that no definition gives.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from orchestration import steps
from streamflow_feast.materialize.audit import audit
from streamflow_feast.training.training_set import write_training_set
from tests.dbt import builds
from tests.dbt.builds import everything, rows, unpublished_rows
from tests.dbt.conftest import Built

Project = Callable[..., Path]
USAGE = "models/features/usage_features"


@pytest.fixture(autouse=True)
def parsed_here(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What dbt has parsed of another test's copy of the project is not taken for this one's."""
    monkeypatch.setenv("DBT_TARGET_PATH", str(tmp_path / "target"))


def take_back(folder: Path) -> None:
    """Put usage_features back to what it is in the project."""
    for ending in ("sql", "yml"):
        shutil.copy(builds.PROJECT / f"{USAGE}.{ending}", folder / f"{USAGE}.{ending}")


def add_feature(folder: Path, name: str, expression: str, data_type: str, **extra: object) -> None:
    """Add a column to usage_features of a copied project, in its model and its YAML."""
    model, schema = folder / f"{USAGE}.sql", folder / f"{USAGE}.yml"
    text = model.read_text()
    last = "as watch_hours_trend_30d\n"
    assert text.count(last) == 1
    model.write_text(text.replace(last, f"{last[:-1]},\n        {expression} as {name}\n"))
    contract = yaml.safe_load(schema.read_text())
    column = {"name": name, "data_type": data_type, "description": "For this test.", **extra}
    contract["models"][0]["columns"].append(column)
    contract.pop("unit_tests", None)  # they list every column
    schema.write_text(yaml.safe_dump(contract))


def retype(folder: Path, name: str, data_type: str) -> None:
    """Give a column of usage_features another type."""
    schema = folder / f"{USAGE}.yml"
    contract = yaml.safe_load(schema.read_text())
    (column,) = [c for c in contract["models"][0]["columns"] if c["name"] == name]
    column["data_type"] = data_type
    schema.write_text(yaml.safe_dump(contract))


def build(folder: Path | None = None, **variables: object) -> builds.Outcome:
    return builds.dbt(
        "build", "--exclude-resource-type", "unit_test", project=folder or builds.PROJECT,
        **variables,
    )  # fmt: skip


def columns(relation: str) -> dict[str, str]:
    return dict(
        rows(
            "select attname, format_type(atttypid, atttypmod) from pg_attribute"
            f" where attrelid = to_regclass('{relation}') and attnum > 0 and not attisdropped"
        )
    )


def training_set(out: Path, known_at: datetime | None = None) -> list[bytes]:
    """The CSV and parquet files of every feature at every as_of."""
    days = rows("select distinct as_of from published.churn_labels_latest order by 1")
    made = write_training_set([day for (day,) in days], known_at, "all_features", out=out)
    return [file.read_bytes() for file in made.files if file.suffix != ".json"]


def online() -> None:
    """`feast apply`, materialize and audit, with the manifest that the last build wrote."""
    steps.apply()
    steps.materialize()
    audit()


def test_a_feature_tried_and_taken_back_shows_nowhere(built: Built, project: Project):
    folder = project()
    assert build(folder).success
    online()
    before, shown = everything(), columns("published.usage_features")
    in_range = {"in_range": {"arguments": {"at_most": 50}}}
    add_feature(folder, "tried", "measured.devices_30d + 100", "bigint", data_tests=[in_range])
    assert not build(folder).success
    assert everything() == before
    for relation in ("usage_features", "usage_features_latest"):
        assert "tried" not in columns(f"published.{relation}")
    online()  # with the manifest of the failed build: what is published is applied
    assert "tried" not in columns("online.usage_features")

    take_back(folder)
    assert build(folder).success
    assert "tried" not in columns("features.usage_features")
    assert columns("published.usage_features") == shown
    online()
    assert everything() == before


def test_the_yaml_may_list_features_in_another_order_and_none_may_be_left_out(
    built: Built, project: Project
):
    """Else one feature's values would stand under another's name, or a feature nowhere."""
    folder = project()
    day = "date '2024-01-01' + measured.active_days_30d::int as first_day"
    add_feature(folder, "label", f"{day},\n        'x' || measured.active_days_30d", "text")
    schema = folder / f"{USAGE}.yml"
    contract = yaml.safe_load(schema.read_text())
    column = {"name": "first_day", "data_type": "date", "description": "For this test."}
    contract["models"][0]["columns"].append(column)
    schema.write_text(yaml.safe_dump(contract))
    assert build(folder).success
    columns_of_it = contract["models"][0]["columns"]
    columns_of_it[4:] = reversed(columns_of_it[4:])
    schema.write_text(yaml.safe_dump(contract))
    before = everything()
    built.deliver()
    outcome = build(folder)
    assert outcome.success, outcome.output[-3000:]
    assert everything() != before
    assert rows(
        "select count(*) from published.usage_features_latest"
        " where label is distinct from 'x' || (first_day - date '2024-01-01')"
        " or first_day <> date '2024-01-01' + active_days_30d::int"
    ) == [(0,)]

    before = everything()
    columns_of_it[:] = [column for column in columns_of_it if column["name"] != "label"]
    schema.write_text(yaml.safe_dump(contract))
    assert not build(folder).success
    assert everything() == before


def test_a_failed_feature_is_computed_for_all_when_it_comes_again(built: Built, project: Project):
    folder = project()
    in_range = {"in_range": {"arguments": {"at_most": 50}}}
    add_feature(folder, "tried", "measured.active_days_30d + 100", "bigint", data_tests=[in_range])
    assert not build(folder).success
    schema = folder / f"{USAGE}.yml"
    schema.write_text(schema.read_text().replace("at_most: 50", "at_most: 500"))
    assert build(folder).success
    wrong = rows(
        "select count(*) from published.usage_features_latest"
        " where tried is distinct from active_days_30d + 100"
    )
    assert wrong == [(0,)]


def test_a_removed_feature_leaves_with_the_next_publication_and_its_history_stays(
    built: Built, project: Project, tmp_path: Path
):
    folder = project()
    add_feature(folder, "passing", "measured.active_days_30d", "bigint")
    assert build(folder).success
    online()
    before = training_set(tmp_path / "before")
    assert b"passing" in before[0]
    trained = builds.newest_publication()
    builds.execute(
        "create role analyst_of_a_test",
        "grant select on published.usage_features to analyst_of_a_test",
    )
    try:
        take_back(folder)
        assert builds.dbt("parse", project=folder).success  # and not yet published
        online()
        assert "passing" in columns("online.usage_features")
        assert build(folder).success
        for relation in ("published.usage_features", "published.usage_features_latest"):
            assert "passing" not in columns(relation)
        assert rows(
            "select has_table_privilege('analyst_of_a_test', 'published.usage_features', 'select')"
        ) == [(True,)]
        online()
        assert "passing" not in columns("online.usage_features")
        assert b"passing" not in training_set(tmp_path / "now")[0]
        assert training_set(tmp_path / "again", trained) == before
    finally:
        builds.execute("drop owned by analyst_of_a_test", "drop role analyst_of_a_test")


def test_a_type_is_widened_without_loss_or_refused_before_the_first_row(
    built: Built, project: Project, tmp_path: Path
):
    folder = project()
    add_feature(folder, "small", "cast(measured.active_days_30d as integer)", "integer")
    assert build(folder).success
    steps.apply()
    narrow, trained = training_set(tmp_path / "narrow"), builds.newest_publication()
    before = {name: versions for name, versions in everything().items() if name != "usage_features"}

    text = (folder / f"{USAGE}.sql").read_text()
    (folder / f"{USAGE}.sql").write_text(
        text.replace(
            "cast(measured.active_days_30d as integer) as small",
            "measured.active_days_30d + 4294967296 as small",
        )
    )
    retype(folder, "small", "bigint")
    outcome = build(folder)
    assert outcome.success, outcome.output[-3000:]
    assert "Widening usage_features" in outcome.output
    assert columns("published.usage_features")["small"] == "bigint"
    assert rows(
        "select count(*) from published.usage_features_latest"
        " where small is distinct from active_days_30d + 4294967296"
    ) == [(0,)]
    assert {k: v for k, v in everything().items() if k != "usage_features"} == before
    assert training_set(tmp_path / "again", trained) == narrow
    online()
    assert columns("online.usage_features")["small"] == "bigint"

    published = everything()
    (folder / f"{USAGE}.sql").write_text(
        text.replace(
            "cast(measured.active_days_30d as integer) as small",
            "measured.active_days_30d + cast(0.4 as double precision) as small",
        )
    )
    retype(folder, "small", "double precision")
    outcome = build(folder)
    assert not outcome.success
    for words in ("usage_features.small", "bigint", "double precision", "small_v2"):
        assert words in outcome.output
    assert everything() == published
    assert not unpublished_rows()


@pytest.mark.parametrize("data_type", ["interval", "numeric"])
def test_a_type_that_feast_has_not_is_refused_before_the_first_row(
    built: Built, project: Project, data_type: str
):
    before, folder = everything(), project()
    add_feature(folder, "odd", f"cast(null as {data_type})", data_type)
    outcome = build(folder)
    assert not outcome.success
    assert "usage_features.odd" in outcome.output
    assert "double precision" in outcome.output
    assert everything() == before
    assert "odd" not in columns("features.usage_features")
    text = (folder / f"{USAGE}.sql").read_text()
    (folder / f"{USAGE}.sql").write_text(text.replace(f"cast(null as {data_type})", "'a'"))
    retype(folder, "odd", "text")
    assert build(folder).success  # what the error says to do


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("usage.window(120)", ["120", "90", "reach_days=120"]),
        ("usage.window(91, 'pairs.as_of')", ["91", "90"]),
        ("usage.window('all')", ["all", "90", 'reach_days="all"']),
        (
            """usage.window(30, "pairs.as_of - interval '70 days'")""",
            ["as_of is a column"],
        ),
        ("usage.covered(30, column='watch_minutes')", ["watch_minutes", "may_lack", "skips"]),
        ("events('payment', 'attempted_at', 30).window(30)", ["stg_payment"]),
        ("events('users', 'as_of', 30).window(30)", ["reads stg_users", "pairs_to_compute"]),
        ("events('usage', 'started_at', 0).window(30)", ["reach_days=0", "whole number"]),
        ("events('usage', 'resolved_at', 30).window(30)", ["resolved_at", "started_at"]),
        ("usage.window('30')", ["whole number"]),
    ],
)
def test_a_window_beyond_the_reach_does_not_compile(
    built: Built, project: Project, call: str, words: list[str]
):
    before = everything()
    folder = project(
        (
            f"{USAGE}.sql",
            "        sum(skips) filter",
            f"        count(*) filter (where {{{{ {call} }}}}) as many,\n        sum(skips) filter",
        )
    )
    outcome = build(folder)
    assert not outcome.success
    for word in words:
        assert word in outcome.output
    assert everything() == before


def test_a_longer_reach_is_computed_for_all(built: Built, project: Project):
    folder = project(("models/features/usage_features.sql", "reach_days=90", "reach_days=120"))
    before = everything()
    outcome = build(folder)
    assert outcome.success
    assert "usage_features changed since it was published (model usage_features)" in outcome.output
    assert everything() == before  # each aggregate has a window of its own


def test_whatever_a_table_is_made_from_counts_as_its_definition(built: Built, project: Project):
    folder = project(
        (
            "models/staging/stg_usage.sql",
            "select\n    session_id,",
            "select -- a comment\n  session_id,",
        )
    )
    outcome = build(folder)
    assert outcome.success
    assert "Computing every pair" not in outcome.output

    clause = "where {{ in_effect() }}"
    project(("models/staging/stg_usage.sql", clause, f"{clause} and watch_minutes > 20"))
    outcome = build(folder)
    assert outcome.success
    assert "usage_features changed since it was published (model stg_usage)" in outcome.output
    assert "subscription_features changed" not in outcome.output
    outcome = build(folder, recompute=True)
    assert outcome.success
    assert "Published: no row changed" in outcome.output


def test_the_published_cadence_stays_until_another_is_asked_for(built: Built):
    assert builds.build(cadence="month").success
    before = everything()
    for _ in range(2):
        assert builds.build().success
        assert everything() == before
    assert rows("select distinct cadence from ledger.publications order by 1") == [
        ("drops",),
        ("month",),
    ]
    assert builds.build(cadence="drops").success
    assert everything() != before


def test_a_plan_says_what_a_build_would_do_and_writes_nothing(built: Built, project: Project):
    state = [everything(), rows("select * from ledger.builds"), columns("features.usage_features")]

    folder = project()

    def planned() -> str:
        outcome = builds.dbt("run-operation", "plan", project=folder)
        assert outcome.success, outcome.output
        found = [
            everything(),
            rows("select * from ledger.builds"),
            columns("features.usage_features"),
        ]
        assert found == state
        return outcome.output

    nothing = planned()
    assert "definitions as published" in nothing
    assert "no load that is not published" in nothing
    built.deliver()
    late = planned()
    computed = {
        line.split()[1].rstrip(":"): int(line.split()[2])
        for line in late.splitlines()
        if line.strip().startswith("compute")
    }
    assert "load" in late

    add_feature(folder, "fresh", "measured.active_days_30d", "bigint")
    changed = planned()
    assert "new       usage_features.fresh bigint" in changed
    assert "all pairs because usage_features.fresh is new" in changed
    retype(folder, "active_days_30d", "text")
    assert "refused   usage_features.active_days_30d" in planned()

    take_back(folder)
    assert build(folder).success
    for table, pairs in computed.items():  # the plan's number is what the build then looked at
        counted = f"views is null or position(',{table},' in views) > 0"
        changes = table.replace("_features", "") if "device" in table else "user"
        found = rows(f"select count(*) from staging.changes_{changes} where {counted}")
        assert found == [(pairs,)], table
