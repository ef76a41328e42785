"""The audit: passes when online equals offline, names what does not, and keeps its results."""

from __future__ import annotations

import pandas as pd
import pytest

from streamflow_feast.__main__ import main
from streamflow_feast.dbt.feast_objects import apply_definitions
from streamflow_feast.materialize.audit import AuditError, audit
from tests.feast.offline import FEB, JAN, VIEWS, Offline, day

USERS = [f"user-{number:03d}" for number in range(40)]


@pytest.fixture
def filled(offline, store, now):
    """Two months and corrections, one user retracted, all online."""
    offline.publish(offline.month(JAN, USERS))
    offline.publish(offline.month(FEB, USERS))
    offline.publish(offline.month(FEB, USERS[:5], shift=1))
    offline.publish({name: [(USERS[7], FEB, None)] for name in VIEWS})
    store.materialize_incremental(now)
    return store


def change(offline: Offline, statement: str) -> None:
    with offline.connect() as connection:
        connection.execute(statement)


def test_equal_passes_and_is_kept(filled, offline):
    results = audit()
    assert [(result.view, result.compared, result.passed) for result in results] == [
        (name, 39, True) for name in sorted(VIEWS)
    ]
    with offline.connect() as connection:
        kept = connection.execute(
            "select view_name, store, as_of, compared, differing, missing, extra from ledger.audits"
            " order by view_name"
        ).fetchall()
    assert kept == [(name, "postgres", FEB, 39, 0, 0, 0) for name in sorted(VIEWS)]


@pytest.mark.parametrize(
    ("statement", "counts", "named"),
    [
        (
            "update online.usage_features set watch_hours_30d = watch_hours_30d + 1e-12"
            " where user_id = 'user-012'",
            (1, 0, 0),
            f"watch_hours_30d is {12 * 0.1 + 1e-12!r} online and {12 * 0.1!r} offline",
        ),
        (
            "update online.usage_features set skips_7d = skips_7d + 1 where user_id = 'user-012'",
            (1, 0, 0),
            "usage_features user-012: skips_7d is 9007199254741006 online and 9007199254741005",
        ),
        (
            "update online.usage_features set skips_7d = null where user_id = 'user-012'",
            (1, 0, 0),
            "skips_7d is None online",
        ),
        (
            "update online.usage_features set skips_7d = 0 where user_id = 'user-010'",
            (1, 0, 0),
            "skips_7d is 0 online and None offline",
        ),
        (
            "update online.usage_features set as_of = '2024-01-31' where user_id = 'user-012'",
            (1, 0, 0),
            "usage_features user-012: as_of is '2024-01-31",
        ),
        (
            "update online.usage_features as o set known_at = f.known_at,"
            " watch_hours_30d = f.watch_hours_30d from features.usage_features as f where"
            " f.user_id = o.user_id and f.as_of = o.as_of and o.user_id = 'user-001'"
            " and f.known_at < o.known_at",
            (1, 0, 0),
            "usage_features user-001: known_at is",
        ),
        (
            "delete from online.usage_features where user_id < 'user-003'",
            (0, 3, 0),
            "usage_features user-000: offline, but not online",
        ),
        (
            "insert into online.usage_features (user_id, as_of, known_at) select 'ghost', as_of,"
            " known_at from online.usage_features where user_id = 'user-012'",
            (0, 0, 1),
            "usage_features ghost: online, but not offline",
        ),
        (
            "insert into online.usage_features (user_id, as_of, known_at) select 'user-007', as_of,"
            " known_at from features.usage_features where user_id = 'user-007' limit 1",
            (0, 0, 1),
            "usage_features user-007: online, but not offline",
        ),
        (  # exactly what was right before the retraction
            "insert into online.usage_features (user_id, watch_hours_30d, skips_7d, as_of,"
            " known_at) select user_id, watch_hours_30d, skips_7d, as_of, known_at"
            " from features.usage_features where user_id = 'user-007' and as_of = '2024-02-29'"
            " and not is_retracted",
            (0, 0, 1),
            "usage_features user-007: online, but not offline",
        ),
    ],
)
def test_a_planted_difference_is_found_and_named(filled, offline, statement, counts, named):
    change(offline, statement)
    with pytest.raises(AuditError) as failed:
        audit()
    assert named in str(failed.value)
    assert "Repair with: cd feature_repo && feast materialize" in str(failed.value)
    result = next(r for r in failed.value.results if r.view == "usage_features")
    assert (result.differing, result.missing, result.extra) == counts
    with offline.connect() as connection:
        kept = connection.execute(
            "select differing, missing, extra from ledger.audits where view_name = 'usage_features'"
        ).fetchall()
    assert kept == [counts]


def test_the_named_repair_repairs(filled, offline, now):
    change(offline, "update online.usage_features set skips_7d = 1 where user_id < 'user-005'")
    change(offline, "delete from online.user_features where user_id > 'user-030'")
    change(
        offline,
        "insert into online.user_features (user_id, as_of, known_at) select 'ghost', as_of,"
        " known_at from online.user_features where user_id = 'user-012'",
    )
    with pytest.raises(AuditError):
        audit()
    filled.materialize(day("1970-01-01"), now)
    assert all(result.passed for result in audit())


def test_the_first_ten_of_many_are_named(filled, offline):
    change(offline, "update online.usage_features set skips_7d = -1")
    with pytest.raises(AuditError) as failed:
        audit()
    assert str(failed.value).count("skips_7d is -1 online") == 10
    assert "39 differing" in str(failed.value)


def test_a_publication_that_was_not_materialized_is_a_difference(filled, offline):
    offline.publish(offline.month(FEB, USERS[3:4], shift=4))
    with pytest.raises(AuditError, match="1 differing"):
        audit()


def test_another_set_of_columns_is_an_error_with_the_remedy(filled, offline):
    offline.define({**VIEWS, "user_features": {**VIEWS["user_features"], "new": "bigint"}})
    with pytest.raises(AuditError, match=r"different columns, first new bigint.*feast apply"):
        audit()
    apply_definitions(filled)
    with pytest.raises(AuditError, match=r"no online table online\.nothing"):
        audit(views=["nothing"])


def test_a_push_ahead_of_offline_is_counted_apart(filled, now):
    pushed = pd.DataFrame(
        {
            "user_id": ["user-001", "someone"],
            "as_of": [day("2024-06-01")] * 2,
            "known_at": [now] * 2,
            "watch_hours_30d": [1.0, 2.0],
            "skips_7d": [1, 2],
        }
    )
    filled.write_to_online_store("usage_features", pushed)
    result = audit(views=["usage_features"])[0]
    assert result.passed
    assert (result.pushed, result.compared) == (2, 38)


def test_the_command_prints_and_exits(filled, offline, capsys):
    assert main(["audit"]) == 0
    assert "usage_features           39 rows equal" in capsys.readouterr().out
    change(offline, "delete from online.user_features where user_id = 'user-001'")
    assert main(["audit", "user_features"]) == 1
    assert "user_features user-001: offline, but not online" in capsys.readouterr().err
