"""What is online after a run equals what is published, whatever came before in whatever order."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone

import pytest

from tests.feast.offline import FEB, JAN, MAR, VIEWS, Offline, day

USERS = [f"user-{number:03d}" for number in range(20)]
END = day("2024-12-31")


def assert_equal(offline: Offline, end: datetime | None = None) -> None:
    for name in offline.views:
        assert offline.online(name) == offline.expected(name, end), name


def late(offline: Offline, user: str, as_of: datetime, hours: float | None) -> dict:
    """A new version of one usage row, or (None) its retraction."""
    features = None if hours is None else {"watch_hours_30d": hours, "skips_7d": 1}
    return {"usage_features": [(user, as_of, features)]}


def test_the_first_run_brings_data_that_is_years_old(offline, store, now):
    offline.publish(offline.month(JAN, USERS))
    store.materialize_incremental(now)
    assert len(offline.online("usage_features")) == len(USERS)
    assert_equal(offline)


def test_a_late_correction_after_an_incremental_run_arrives(offline, store, now):
    offline.publish(offline.month(JAN, USERS))
    offline.publish(offline.month(FEB, USERS))
    store.materialize_incremental(now)
    offline.publish(late(offline, "user-005", FEB, 99.5))
    store.materialize_incremental(now)
    assert offline.online("usage_features")["user-005"][2] == 99.5
    assert_equal(offline)
    last = offline.ledger("usage_features")[-1]
    assert (last["considered"], last["changed"], last["unchanged"]) == (1, 1, 0)


def test_a_backfill_of_an_old_month_leaves_newer_values(offline, store, now):
    offline.publish(offline.month(FEB, USERS))
    store.materialize_incremental(now)
    before = offline.online("usage_features")
    offline.publish(offline.month(JAN, USERS, shift=7))
    store.materialize_incremental(now)
    assert offline.online("usage_features") == before
    store.materialize(JAN - timedelta(days=30), JAN + timedelta(days=1))
    assert offline.online("usage_features") == before
    assert_equal(offline)


def test_nothing_new_changes_no_row(offline, store, now):
    offline.publish(offline.month(JAN, USERS))
    store.materialize_incremental(now)
    query = "select ctid, xmin, * from online.usage_features order by user_id"
    with offline.connect() as connection:
        before = connection.execute(query).fetchall()
    store.materialize_incremental(now)
    store.materialize(day("2020-01-01"), now)  # compares everything, finds nothing
    with offline.connect() as connection:
        assert connection.execute(query).fetchall() == before
    last = offline.ledger("usage_features")[-1]
    assert (last["considered"], last["changed"], last["unchanged"]) == (20, 0, 20)


def test_the_end_date_limits_as_of_and_is_inclusive(offline, store):
    for as_of in (JAN, FEB, MAR):
        offline.publish(offline.month(as_of, USERS, shift=as_of.month))
    store.materialize_incremental(FEB - timedelta(microseconds=1))
    assert_equal(offline, JAN)
    store.materialize_incremental(FEB)
    assert_equal(offline, FEB)
    store.materialize_incremental(END)
    assert_equal(offline, MAR)


def test_an_end_date_in_the_future_blocks_nothing(offline, store, now):
    offline.publish(offline.month(JAN, USERS))
    store.materialize_incremental(day("2100-01-01"))
    offline.publish(late(offline, "user-001", JAN, 5.0))
    offline.publish(offline.month(FEB, USERS))
    store.materialize_incremental(now)
    assert_equal(offline)
    offline.publish(late(offline, "user-002", FEB, 6.0))
    store.materialize_incremental(FEB)
    assert_equal(offline)


def test_a_correction_is_not_lost_to_a_run_with_an_older_end_date(offline, store, now):
    offline.publish(offline.month(JAN, USERS))
    offline.publish(offline.month(FEB, USERS))
    store.materialize_incremental(now)
    offline.publish(late(offline, "user-001", FEB, 5.0))
    before = offline.online("usage_features")
    store.materialize_incremental(JAN)
    assert offline.online("usage_features") == before
    store.materialize_incremental(now)
    assert_equal(offline)
    assert offline.online("usage_features")["user-001"][2] == 5.0


def test_users_who_left_are_removed_and_come_back(offline, store, now):
    offline.publish(offline.month(JAN, USERS))
    store.materialize_incremental(now)
    offline.publish(offline.month(FEB, USERS[5:]))
    store.materialize_incremental(now)
    assert set(offline.online("usage_features")) == set(USERS[5:])
    assert offline.ledger("usage_features")[-1]["removed"] == 5
    offline.publish(offline.month(MAR, USERS))
    store.materialize_incremental(now)
    assert set(offline.online("usage_features")) == set(USERS)
    assert_equal(offline)


def test_an_old_range_does_not_bring_back_users_who_left(offline, store, now):
    offline.publish(offline.month(JAN, USERS))
    offline.publish(offline.month(FEB, USERS[5:]))
    store.materialize_incremental(now)
    store.materialize(day("2023-01-01"), JAN)
    assert set(offline.online("usage_features")) == set(USERS[5:])


def test_a_retracted_row_is_removed(offline, store, now):
    offline.publish(offline.month(JAN, USERS))
    store.materialize_incremental(now)
    offline.publish(late(offline, "user-001", JAN, None))
    store.materialize_incremental(now)
    assert "user-001" not in offline.online("usage_features")
    assert_equal(offline)
    offline.publish(late(offline, "user-001", JAN, 3.0))
    store.materialize_incremental(now)
    assert_equal(offline)


def test_a_wholly_retracted_month_gives_way_to_the_one_before(offline, store, now):
    offline.publish(offline.month(JAN, USERS))
    offline.publish(offline.month(FEB, USERS[:3]))
    store.materialize_incremental(now)
    offline.publish({name: [(user, FEB, None) for user in USERS[:3]] for name in VIEWS})
    store.materialize_incremental(now)
    assert_equal(offline)
    assert len(offline.online("usage_features")) == len(USERS)
    offline.publish({name: [(user, JAN, None) for user in USERS] for name in VIEWS})
    store.materialize_incremental(now)
    assert offline.online("usage_features") == {}


def test_what_is_not_published_stays_unseen(offline, store, now):
    offline.publish(offline.month(JAN, USERS))
    offline.build(offline.month(FEB, USERS))
    store.materialize_incremental(now)
    assert_equal(offline, JAN)


def test_nothing_published_is_an_error_with_the_remedy(offline, store, now):
    from streamflow_feast.materialize.engine import MaterializationError

    with pytest.raises(MaterializationError, match="cd dbt_project && dbt build"):
        store.materialize_incremental(now)


def test_a_missing_column_or_table_is_an_error_with_the_remedy(offline, store, now):
    from streamflow_feast.dbt.feast_objects import apply_definitions
    from streamflow_feast.dbt.manifest import parse_manifest
    from streamflow_feast.materialize.engine import MaterializationError
    from tests.feast.offline import manifest

    offline.publish(offline.month(JAN, USERS))
    with offline.connect() as connection:
        connection.execute("drop table online.user_features")
    with pytest.raises(MaterializationError, match=r"online\.user_features .*feast apply"):
        store.materialize_incremental(now)
    assert offline.online("usage_features") == {}, "one failing view must hold back the others"
    wider = {**VIEWS, "user_features": {**VIEWS["user_features"], "tenure_days": "bigint"}}
    apply_definitions(store, parse_manifest(manifest(wider)))
    wanted = r"published\.user_features\.tenure_days .*dbt build"
    with pytest.raises(MaterializationError, match=wanted):
        store.materialize_incremental(now)


def test_all_views_of_a_run_are_of_one_publication_though_another_is_published_meanwhile(
    offline, store, now, monkeypatch
):
    from streamflow_feast.materialize import slice as publish

    offline.publish(offline.month(JAN, USERS))
    run = publish.run

    def run_and_publish(connection, plan):
        if plan.view.name == "usage_features":
            offline.publish(offline.month(JAN, USERS, shift=50))
        return run(connection, plan)

    monkeypatch.setattr("streamflow_feast.materialize.slice.run", run_and_publish)
    store.materialize_incremental(now)
    known = {row[1] for name in VIEWS for row in offline.online(name).values()}
    assert len(known) == 1
    monkeypatch.undo()
    store.materialize_incremental(now)
    assert_equal(offline)


def test_a_view_alone_can_be_materialized(offline, store, now):
    offline.publish(offline.month(JAN, USERS))
    store.materialize_incremental(now, feature_views=["user_features"])
    assert len(offline.online("user_features")) == 20
    assert offline.online("usage_features") == {}


def test_the_result_line_says_what_happened(offline, store, now, capsys):
    offline.publish(offline.month(JAN, USERS))
    store.materialize_incremental(now)
    assert (
        "usage_features           as of 2024-01-31: 20 considered, 20 changed, 0 unchanged, "
        "0 removed" in capsys.readouterr().out
    )


def test_feasts_own_record_of_runs_is_kept_and_readable(offline, store):
    offline.publish(offline.month(JAN, USERS))
    store.materialize_incremental(day("2100-01-01"))
    intervals = store.get_feature_view("usage_features").materialization_intervals
    assert len(intervals) == 1
    assert intervals[0][0] <= intervals[0][1] <= datetime.now(timezone.utc)


@pytest.mark.parametrize("seed", range(8))
def test_any_order_of_months_corrections_and_runs_ends_equal(offline, store, seed):
    """A user would be served another month's or another publication's value."""
    from streamflow_feast.materialize.audit import audit

    chance = random.Random(seed)
    months = [day(f"2024-{month:02d}-01") for month in range(1, 7)]
    stood: set[tuple[str, datetime]] = set()
    for _ in range(12):
        versions: dict[str, list] = {name: [] for name in VIEWS}
        for as_of in chance.sample(months, chance.randint(1, 2)):
            for user in chance.sample(USERS, chance.randint(1, len(USERS))):
                shift = chance.randint(0, 3)
                gone = (user, as_of) in stood and chance.random() < 0.4
                (stood.discard if gone else stood.add)((user, as_of))
                for name, rows in offline.month(as_of, [user], shift).items():
                    versions[name].append((user, as_of, None) if gone else rows[0])
        offline.publish(versions)
        action = chance.random()
        if action < 0.5:
            store.materialize_incremental(END)
        elif action < 0.7:  # an older end date may come in between
            store.materialize_incremental(chance.choice(months))
        elif action < 0.8:
            store.materialize(months[0], chance.choice(months))
        if action < 0.5:
            assert_equal(offline)
            audit()
    store.materialize_incremental(END)
    assert_equal(offline)
    audit()
