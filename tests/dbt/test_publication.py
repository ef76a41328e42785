"""Versions and their publication: history is never rewritten, and nobody sees what is not tested.

If one of these fails, an old training set can no longer be built again, or a bad month is served.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from tests.dbt import builds
from tests.dbt.builds import everything, unpublished_rows, values
from tests.dbt.conftest import Built

Project = Callable[..., Path]


def appended() -> dict[str, int]:
    """Rows appended per table by the newest publication, as the ledger tells it."""
    statement = "select rows_appended from ledger.publications order by known_at desc limit 1"
    return builds.rows(statement)[0][0]


def test_building_again_appends_nothing_and_full_refresh_destroys_nothing(built: Built):
    before = everything()
    for arguments in ([], ["--full-refresh"]):
        outcome = builds.dbt("build", "--exclude-resource-type", "unit_test", *arguments)
        assert outcome.success, outcome.output[-4000:]
        assert set(appended().values()) == {0}
        assert set(appended()) == set(builds.FEATURES)
        assert everything() == before
    (known_at, load_to, tests, version), *_ = builds.rows(
        "select known_at, load_to, tests_run, code_version from ledger.publications order by 1 desc"
    )
    assert known_at > built.known_at
    assert load_to == builds.rows("select max(load_id) from raw.loads")[0][0]
    assert tests > 100
    assert version
    for table, versions in before.items():
        latest = builds.as_known_at(versions, known_at)
        keys = ", ".join(builds.KEYS.get(table, ["user_id"]))
        pairs = builds.rows(f"select {keys}, as_of from published.{table}_latest")
        assert sorted(pairs) == sorted(latest)


def test_only_a_build_with_all_its_tests_publishes(built: Built):
    before = everything()
    built.deliver()
    for arguments, reason in [
        (["run"], "dbt run does not test"),
        (["build", "--select", "usage_features"], "were left out"),
        (["build", "--exclude", "test_type:generic"], "were left out"),
    ]:
        outcome = builds.dbt(*arguments)
        assert outcome.success
        assert "Nothing was published" in outcome.output
        assert reason in outcome.output
        assert "dbt build" in outcome.output
        assert everything() == before
        assert builds.newest_publication() == built.known_at
    assert unpublished_rows()
    assert builds.build().success
    assert not unpublished_rows()
    values(built.loaded)
    assert builds.rows("select status, count(*) from ledger.builds group by 1 order by 1") == [
        ("published", 2),
        ("unpublished", 3),
    ]


def test_a_new_column_and_a_changed_definition_are_backfilled(built: Built, project: Project):
    before = everything()
    folder = project(
        (
            "models/features/user_features.sql",
            "as tenure_days",
            "as tenure_days,\n        upper(users.user_gender) as gender_code",
        )
    )
    schema = folder / "models/features/user_features.yml"
    contract = yaml.safe_load(schema.read_text())
    column = {"name": "gender_code", "data_type": "text", "description": "For this test."}
    contract["models"][0]["columns"].append(column)
    contract.pop("unit_tests", None)  # they list every column
    schema.write_text(yaml.safe_dump(contract))

    outcome = builds.dbt("build", "--exclude-resource-type", "unit_test", project=folder)
    assert outcome.success, outcome.output[-4000:]
    assert "gender_code is new" in outcome.output
    newest = builds.newest_publication()
    found = builds.published("user_features")
    for pair, row in builds.as_known_at(found, newest).items():
        gender = row["user_gender"]
        assert row["gender_code"] == (gender and gender.upper()), pair
    for pair, row in builds.as_known_at(found, built.known_at).items():  # history stays
        assert row.pop("gender_code") is None
        assert before["user_features"][pair][-1][1] == row
    assert [table for table, rows in appended().items() if rows] == ["user_features"]

    project(
        (
            "models/features/user_features.sql",
            "upper(users.user_gender)",
            "lower(users.user_gender)",
        )
    )
    outcome = builds.dbt("build", "--exclude-resource-type", "unit_test", project=folder)
    assert outcome.success
    assert "user_features changed since it was published" in outcome.output
    now = builds.as_known_at(builds.published("user_features"), builds.newest_publication())
    assert {row["gender_code"] for row in now.values()} == {"female", "male", None}
    known = sum(row["gender_code"] is not None for row in now.values())
    assert appended() == {**dict.fromkeys(builds.FEATURES, 0), "user_features": known}


def test_another_cadence_moves_the_spine_and_keeps_history(built: Built):
    before = everything()
    assert builds.build(cadence="month").success
    values(built.loaded, "month")
    for table, versions in before.items():
        now = builds.published(table)
        assert builds.as_known_at(now, built.known_at) == builds.as_known_at(
            versions, built.known_at
        )

    outcome = builds.build(cadence="year")
    assert not outcome.success
    assert "it can be drops, month, week, day or hour" in outcome.output
