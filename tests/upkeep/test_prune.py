"""Pruning takes what nobody can ask for, and nothing else; what is gone is refused by name.

If one of these fails, a training set of last year silently has other values, or a build computes
from less than was delivered.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from feast import FeatureStore

from data.database import Database
from orchestration import steps
from orchestration.upkeep.prune import PruneError, duration, main, prune
from streamflow_feast.dbt.publications import PrunedError
from streamflow_feast.offline.store import as_known_at
from tests.dbt import builds
from tests.dbt.builds import everything, execute, rows, values
from tests.dbt.conftest import Built

DAYS = (400, 200, 100, 10)  # how long ago the publications of `aged` were


@pytest.fixture
def aged(built: Built) -> list[datetime]:
    """Four publications of the last 400 days, oldest first, with corrections between them."""
    for _ in range(3):
        built.deliver()
        assert builds.build().success
    stamps = [stamp for (stamp,) in rows("select known_at from ledger.publications order by 1")]
    assert len(stamps) == len(DAYS)
    now = datetime.now(timezone.utc).replace(microsecond=0)
    aged = [now - timedelta(days=days) for days in DAYS]
    statements = ["set session_replication_role = replica"]
    for was, stamp in zip(stamps, aged, strict=True):
        statements += [
            f"update {table} set known_at = '{stamp}' where known_at = '{was}'"
            for table in (
                "ledger.builds", "ledger.publications", *(f"features.{t}" for t in builds.FEATURES)
            )
        ]  # fmt: skip
    execute(*statements)
    return aged


def as_known(stamps: list[datetime]) -> dict:
    """Every table as known at each of these."""
    told = everything()
    return {
        (stamp, table): builds.as_known_at(versions, stamp)
        for stamp in stamps
        for table, versions in told.items()
    }


def test_what_was_known_within_the_time_that_is_kept_stays(
    built: Built, aged: list[datetime], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, versions = (
        as_known(aged[1:]),
        sum(len(v) for t in everything().values() for v in t.values()),
    )
    replaced = rows("select count(*) from raw.payments where replaced_by is not null")[0][0]
    old_report, new_report = (
        tmp_path / "report_2020-01-31.html",
        tmp_path / "report_2024-01-31.html",
    )
    for file in (old_report, new_report):
        file.write_text("")
    os.utime(old_report, (0, 0))

    done = prune(timedelta(days=150), tmp_path)

    assert as_known(aged[1:]) == kept
    left = sum(len(v) for t in everything().values() for v in t.values())
    assert left < versions
    assert done.answers == (aged[0], aged[1])
    assert not old_report.exists()
    assert new_report.exists()
    assert rows("select count(*) from raw.payments where replaced_by is not null")[0][0] <= replaced
    assert rows("select removed ->> 'reports', bytes_after > 0 from ledger.prunings") == [
        (None, True)
    ]
    values(built.loaded)

    # The next builds are as they would have been, also where an old statement comes back.
    built.deliver()
    assert builds.build().success
    values(built.loaded)
    assert builds.build(recompute=True).success
    values(built.loaded)

    assert prune(timedelta(days=150), tmp_path).removed.total() == 0
    assert main(["--keep", "1 year"]) == 0
    said = capsys.readouterr().out
    assert f"before: KNOWN_AT answers from {aged[1]:%Y-%m-%d %H:%M:%S} UTC on" in said
    assert f"after:  KNOWN_AT answers from {aged[1]:%Y-%m-%d %H:%M:%S} UTC on" in said


def test_what_is_gone_cannot_be_asked_for(sample: Database, tmp_path: Path) -> None:
    ((known_at,),) = rows("select known_at from ledger.publications")
    execute(
        "insert into ledger.prunings (kept, answers_from, raw_answers_from, removed, bytes_before,"
        f" bytes_after) values ('1 day', '{known_at}', 0, '{{}}', 0, 0)",
    )
    before = known_at - timedelta(seconds=1)
    with pytest.raises(steps.StepError, match="cannot be told any more"):
        steps.training_set(["2024-01-31"], known_at=before.isoformat(), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert steps.training_set(["2024-01-31"], known_at=known_at.isoformat(), out=tmp_path)

    store = FeatureStore(repo_path=str(Path(__file__).parents[2] / "feature_repo"))
    users = "select user_id, as_of as event_timestamp from published.user_features_latest"
    features = ["usage_features:skips_7d"]
    with as_known_at(before), pytest.raises(PrunedError, match="cannot be told any more"):
        store.get_historical_features(users, features)
    with as_known_at(known_at):
        assert store.get_historical_features(users, features).to_arrow().num_rows


def test_what_a_failed_build_left_goes_at_once(sample: Database, tmp_path: Path) -> None:
    execute(
        "insert into features.churn_labels (user_id, as_of, churn_label, known_at, is_retracted)"
        " select user_id, as_of, churn_label, known_at + interval '1 second', is_retracted"
        " from features.churn_labels"
    )
    before = everything()
    done = prune(timedelta(days=1), tmp_path)
    assert done.removed["features.churn_labels"] == sum(map(len, before["churn_labels"].values()))
    assert everything() == before


@pytest.mark.parametrize("text", ["", "2", "two years", "-1year", "1.5years", "10 parsecs"])
def test_a_duration_that_is_none_is_told(text: str) -> None:
    with pytest.raises(PruneError, match="expected for example 90days"):
        duration(text)


def test_durations_are_counted_so_that_more_is_kept() -> None:
    assert duration("2years") == timedelta(days=732)
    assert duration("18 months") == timedelta(days=558)
    assert duration("1day") == timedelta(days=1)
