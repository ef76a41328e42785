"""What get_historical_features gives back, and refuses, over versioned tables."""

from __future__ import annotations

import re
import time
import warnings
from datetime import datetime, timedelta

import pandas as pd
import psycopg
import pytest
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
    SavedDatasetPostgreSQLStorage,
)
from feast.infra.offline_stores.offline_store import RetrievalJob

from data.database import Database
from streamflow_feast.offline import frame_read
from streamflow_feast.offline.store import StreamflowOfflineStore, as_known_at

from .conftest import REFS, Version, World, day

PLAN = ["plan_features:fee", "plan_features:months", "plan_features:net"]
FEE = ["plan_features:fee"]


def frame(*rows: tuple[str, object], **more: object) -> pd.DataFrame:
    users, instants = zip(*rows, strict=True) if rows else ((), ())
    return pd.DataFrame({"user_id": list(users), "event_timestamp": list(instants), **more})


def fees(world: World, *rows: tuple[str, object]) -> list[float | None]:
    job = world.ours.get_historical_features(frame(*rows), FEE)
    return job.to_arrow().column("fee").to_pylist()


# --- which version -----------------------------------------------------------------------------


def test_takes_the_newest_as_of_at_or_before_the_instant(world: World) -> None:
    world.put(
        "plan_features", *(Version("a", day(d), day(9), (float(d), d, "x")) for d in (1, 2, 3))
    )
    microsecond = timedelta(microseconds=1)
    asked = [day(1) - microsecond, day(1), day(2) - microsecond, day(2), day(99)]
    assert fees(world, *(("a", t) for t in asked)) == [None, 1.0, 1.0, 2.0, 3.0]


def test_of_several_versions_the_newest_counts_and_a_retracted_one_gives_way(world: World) -> None:
    world.put(
        "plan_features",
        Version("a", day(1), day(5), (1.0, 1, "x")),
        Version("a", day(2), day(5), (2.0, 2, "x")),
        Version("a", day(2), day(6), (2.5, 2, "x")),
        Version("b", day(1), day(5), (1.0, 1, "x")),
        Version("b", day(2), day(5), (2.0, 2, "x")),
        Version("b", day(2), day(6), is_retracted=True),
        Version("c", day(1), day(5), (1.0, 1, "x")),
        Version("c", day(1), day(6), is_retracted=True),
        Version("c", day(1), day(7), (9.0, 1, "x")),
    )
    assert fees(world, ("a", day(8)), ("b", day(8)), ("c", day(8))) == [2.5, 1.0, 9.0]


def test_as_known_at_sees_what_was_known_then(world: World) -> None:
    world.put("plan_features", Version("a", day(1), day(5), (1.0, 1, "x")))
    world.put("plan_features", Version("a", day(1), day(6), (2.0, 1, "x")))
    world.put("plan_features", Version("a", day(1), day(7), is_retracted=True))
    seen = []
    for known_at in (day(4), day(5), day(6.5), day(7), None, datetime(2024, 1, 7)):
        with as_known_at(known_at):
            seen += fees(world, ("a", day(8)))
    assert seen == [None, 1.0, 2.0, None, None, 2.0]


def test_the_known_at_is_that_of_the_call_not_of_the_read(world: World) -> None:
    world.put("plan_features", Version("a", day(1), day(5), (1.0, 1, "x")))
    world.put("plan_features", Version("a", day(1), day(6), (2.0, 1, "x")))
    with as_known_at(day(5)):
        job = world.ours.get_historical_features(frame(("a", day(8))), FEE)
    assert job.to_arrow().column("fee").to_pylist() == [1.0]


def test_unpublished_versions_are_not_seen(world: World) -> None:
    world.put("plan_features", Version("a", day(1), day(5), (1.0, 1, "x")))
    world.put_unpublished("plan_features", Version("a", day(1), day(6), (2.0, 1, "x")))
    assert fees(world, ("a", day(8))) == [1.0]


def test_ttl_lets_a_value_expire_to_the_microsecond(world: World) -> None:
    world.put("activity_features", Version("a", day(1), day(5), (1.0, 1, True)))
    job = world.ours.get_historical_features(
        frame(("a", day(4)), ("a", day(4) + timedelta(microseconds=1))), ["activity_features:hours"]
    )
    assert job.to_arrow().column("hours").to_pylist() == [1.0, None]


def test_filter_by_created_timestamp_hides_what_was_computed_later(world: World) -> None:
    world.put("plan_features", Version("a", day(1), day(2), (1.0, 1, "x")))
    world.put("plan_features", Version("a", day(1), day(4), (2.0, 1, "x")))
    job = world.ours.get_historical_features(
        frame(("a", day(1)), ("a", day(3)), ("a", day(4))), FEE, filter_by_created_timestamp=True
    )
    assert job.to_arrow().column("fee").to_pylist() == [None, 1.0, 2.0]


# --- names, forms, ranges ----------------------------------------------------------------------


def test_full_feature_names_and_feature_services(days: World) -> None:
    asked = frame(("a", day(3)), fee=["label"])
    got = days.ours.get_historical_features(asked, FEE, full_feature_names=True).to_arrow()
    assert got.column_names == ["user_id", "event_timestamp", "fee", "plan_features__fee"]
    service = days.ours.get_feature_service("some")
    got = days.ours.get_historical_features(frame(("a", day(3))), service).to_arrow()
    assert got.column_names == ["user_id", "event_timestamp", "skips", "fee", "months", "net"]


def test_values_are_exact_in_arrow_and_in_pandas(world: World) -> None:
    big = 2**53 + 1
    values = [
        (0.1 + 0.2, big, "é\n"), (5e-324, -big, ""), (float("inf"), 1, "NULL"), (None, None, None)
    ]  # fmt: skip
    world.put("plan_features", *(Version(f"u{i}", day(1), day(5), v) for i, v in enumerate(values)))
    job = world.ours.get_historical_features(frame(*((f"u{i}", day(2)) for i in range(4))), PLAN)
    table = job.to_arrow()
    assert [str(f.type) for f in table.schema][2:] == ["double", "int64", "string"]
    assert (
        list(zip(*(table.column(n).to_pylist() for n in ("fee", "months", "net")), strict=True))
        == values
    )
    assert job.to_df()["months"].tolist() == [big, -big, 1, pd.NA]
    # As in Feast, as long as nothing is lost by it:
    small = world.ours.get_historical_features(frame(("u2", day(2)), ("u3", day(2))), PLAN).to_df()
    assert small["months"].dtype == "float64"


def test_a_date_range_gives_one_row_a_user_and_instant(world: World) -> None:
    world.put(
        "plan_features",
        Version("a", day(1), day(5), (1.0, 1, "x")),
        Version("a", day(1), day(6), (1.5, 1, "x")),
        Version("a", day(2), day(5), (2.0, 2, "x")),
        Version("a", day(2), day(6), is_retracted=True),
        Version("a", day(4), day(5), (4.0, 4, "x")),
        Version("b", day(3), day(5), (3.0, 3, "x")),
    )
    world.put("activity_features", Version("b", day(2), day(6), (7.0, 7, True)))

    def ranged(refs: list[str]) -> list[dict[str, object]]:
        job = world.ours.get_historical_features(None, refs, start_date=day(1), end_date=day(3))
        return job.to_arrow().to_pylist()

    assert ranged(FEE) == [
        {"event_timestamp": day(1), "created_timestamp": day(6), "user_id": "a", "fee": 1.5},
        {"event_timestamp": day(3), "created_timestamp": day(5), "user_id": "b", "fee": 3.0},
    ]
    assert ranged([*FEE, "activity_features:hours"]) == [
        {"event_timestamp": day(1), "user_id": "a", "fee": 1.5, "hours": None},
        {"event_timestamp": day(2), "user_id": "b", "fee": None, "hours": 7.0},
        {"event_timestamp": day(3), "user_id": "b", "fee": 3.0, "hours": 7.0},
    ]
    with as_known_at(day(5)):
        assert [row["fee"] for row in ranged(FEE)] == [1.0, 2.0, 3.0]


def test_persist_writes_a_table_that_feast_reads_back(days: World) -> None:
    asked = frame(("a", day(3)), ("zz", day(4)), label=[True, None])
    storage = SavedDatasetPostgreSQLStorage(table_ref="saved_set")
    with warnings.catch_warnings(action="ignore"):
        saved = days.ours.create_saved_dataset(
            days.ours.get_historical_features(asked, PLAN), "saved", storage
        )
        assert sorted(saved.to_df()["fee"].dropna()) == [3.0]
    kept = days.connection.execute("select * from saved_set order by user_id").fetchall()
    assert kept == [("a", day(3), True, 3.0, 3, "x"), ("zz", day(4), None, None, None, None)]
    job = days.ours.get_historical_features(asked, FEE)
    with pytest.raises(ValueError, match=r"saved_set exists; pass allow_overwrite=True"):
        job.persist(storage)
    job.persist(storage, allow_overwrite=True)
    (count,) = days.connection.execute("select count(*) from saved_set").fetchone() or (0,)
    assert count == 2


def test_pull_latest_and_pull_all_leave_retracted_versions_out(world: World) -> None:
    world.put(
        "plan_features",
        Version("a", day(1), day(5), (1.0, 1, "x")),
        Version("a", day(2), day(5), (2.0, 2, "x")),
        Version("a", day(2), day(6), is_retracted=True),
    )
    source = world.ours.get_feature_view("plan_features").batch_source
    arguments = (
        world.ours.config,
        source,
        ["user_id"],
        ["fee"],
        "as_of",
        "known_at",
        day(0),
        day(9),
    )
    for pull in (
        StreamflowOfflineStore.pull_latest_from_table_or_query,
        StreamflowOfflineStore.pull_all_from_table_or_query,
    ):
        assert pull(*arguments).to_arrow().column("fee").to_pylist() == [1.0]


def test_another_source_takes_the_stock_path(days: World) -> None:
    days.connection.execute("create table plain as table published.plan_features")
    view = days.ours.get_feature_view("plan_features")
    view.batch_source = PostgreSQLSource(name="plain", table="plain", timestamp_field="as_of")
    job = StreamflowOfflineStore.get_historical_features(
        days.ours.config, [view], FEE, frame(("a", day(3))), days.ours.registry, "training"
    )
    assert "ROW_NUMBER" in job.to_sql()
    assert job.to_arrow().column("fee").to_pylist() == [3.0]


# --- what stays behind -------------------------------------------------------------------------


def _relations(connection: psycopg.Connection) -> int:
    (count,) = connection.execute("select count(*) from pg_class").fetchone() or (0,)
    return count


def test_nothing_is_left_in_the_database_even_by_errors(days: World) -> None:
    job = days.ours.get_historical_features(frame(*[("a", day(3))] * 5000), REFS)
    before = _relations(days.connection)
    job.to_arrow()
    with pytest.raises(psycopg.errors.QueryCanceled):
        job.to_arrow(timeout=0.001)  # type: ignore[arg-type]
    days.connection.execute("drop table features.activity_features cascade")
    between = _relations(days.connection)
    with pytest.raises(psycopg.errors.UndefinedTable):
        job.to_arrow()
    assert between < before
    assert _relations(days.connection) == between
    deadline = time.monotonic() + 5
    while (sessions := _sessions(days.connection)) and time.monotonic() < deadline:
        time.sleep(0.05)  # a backend takes a moment to end
    assert sessions == 0


def _sessions(connection: psycopg.Connection) -> int:
    (count,) = connection.execute(
        "select count(*) from pg_stat_activity where application_name = 'streamflow-training'"
        " and datname = current_database()"
    ).fetchone() or (0,)
    return count


@pytest.mark.parametrize(
    ("instant", "loops"), [("2024-01-15", (400, 0)), ("2024-12-31", (400, 400))]
)
def test_rows_are_read_from_the_primary_key_and_no_further_than_needed(
    days: World, instant: str, loops: tuple[int, int]
) -> None:
    """A sort or a scan of the history would make a training set's cost grow with the history."""
    days.put(
        "plan_features",
        *(Version(f"u{i}", day(d), day(20), (1.0, 1, "x")) for i in range(500) for d in range(20)),
    )
    job: RetrievalJob = days.ours.get_historical_features(frame(("a", day(3))), FEE)
    connection = days.connection
    connection.execute("analyze features.plan_features")
    connection.execute(
        "create temp table entity_frame (row_number bigint, instant timestamptz, key_0 text)"
    )
    connection.execute(
        "insert into entity_frame select i, %s, 'u' || i from generate_series(1, 400) i", [instant]
    )
    lines = connection.execute("explain (analyze, timing off) " + job.to_sql()).fetchall()
    plan = "\n".join(line for (line,) in lines)
    assert re.findall("Sort Key: (.*)", plan) == ["entity_frame.key_0, entity_frame.instant"], plan
    scans = [line for line in plan.splitlines() if " on plan_features" in line]
    assert all("Index Scan Backward using plan_features_pkey" in line for line in scans), plan
    for scan, times in zip(scans, loops, strict=True):
        expected = f"loops={times})" if times else "(never executed)"
        assert scan.endswith(expected), plan


def test_all_connections_of_a_read_see_the_same_database(days: World, database: Database) -> None:
    """Otherwise one half of a training set could be made from a publication more than the other."""
    with database.connect() as one, database.connect() as two:
        frame_read._share_snapshot([one, two])
        days.put("plan_features", Version("new", day(1), day(30), (1.0, 1, "x")))
        query = "select count(*) from published.plan_features"
        assert [c.execute(query).fetchone() for c in (one, two)] == [(10,), (10,)]
        assert days.connection.execute(query).fetchone() == (11,)


def test_settings_come_from_the_environment(world: World, database: Database) -> None:
    config = world.ours.config.offline_store
    assert (config.host, config.port, config.database) == (
        database.host, database.port, database.database
    )  # fmt: skip
    assert "password" not in repr(config)
