"""What an entity frame or an entity query may be, and what is said of any other."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast.errors import FeastObjectNotFoundException

from streamflow_feast.offline.entity_frame import EntityFrameError

from .conftest import Version, World, day
from .test_offline_store import FEE, PLAN, fees, frame


def test_the_frames_order_repeated_rows_and_other_columns_stay(days: World) -> None:
    labels = ["u", None, "w", ""]
    asked = frame(("a", day(3)), ("a", day(1)), ("zz", day(1)), ("a", day(3)))
    asked["label"] = labels
    asked["weight"] = np.array([1, 2, 3, 4], dtype="int8")
    asked["seen"] = pd.to_datetime(["2024-01-01", None, "2024-01-02", None])
    asked["kind"] = pd.Categorical(["k", "l", "k", "k"])
    asked.index = [7, 7, 8, 9]
    got = days.ours.get_historical_features(asked, FEE).to_arrow()
    assert got.column("fee").to_pylist() == [3.0, 1.0, None, 3.0]
    assert got.column("label").to_pylist() == labels
    assert got.schema.field("weight").type == pa.int8()
    assert got.column("seen").null_count == 2
    assert got.column("kind").to_pylist() == ["k", "l", "k", "k"]
    assert got.column_names[:2] == ["user_id", "event_timestamp"]
    assert got.column_names[-1] == "fee"


@pytest.mark.parametrize(
    "instants",
    [
        pytest.param([pd.Timestamp("2024-01-03")], id="naive is UTC"),
        pytest.param([pd.Timestamp("2024-01-03 02:00", tz="Europe/Berlin")], id="zone"),
        pytest.param([pd.Timestamp("2024-01-02 23:00", tz="America/New_York")], id="zone behind"),
        pytest.param([date(2024, 1, 3)], id="date is its midnight in UTC"),
        pytest.param(["2024-01-03"], id="text"),
        pytest.param(["2024-01-03T23:30:00-00:30"], id="text with an offset"),
        pytest.param([np.datetime64("2024-01-03T00:00:00", "s")], id="seconds"),
        pytest.param([datetime(2024, 1, 3, tzinfo=timezone(timedelta(hours=-8)))], id="datetime"),
    ],
)
def test_instants_are_taken_as_utc_or_converted(days: World, instants: list[object]) -> None:
    # Sessions start in another zone, so that a value taken as local time would be found out.
    days.connection.execute("alter role current_user set timezone = 'Asia/Tokyo'")
    try:
        expected = pd.Timestamp(instants[0])
        expected = expected.tz_localize("UTC") if expected.tzinfo is None else expected
        got = days.ours.get_historical_features(frame(("a", instants[0])), FEE).to_arrow()
        assert got.column("fee").to_pylist() == [float((expected - day(0)).days)]
        assert got.column("event_timestamp").to_pylist() == [expected]
        assert str(got.schema.field("event_timestamp").type) == "timestamp[us, tz=UTC]"
    finally:
        days.connection.execute("alter role current_user reset timezone")


def test_mixed_instants_in_one_column(days: World) -> None:
    asked = frame(("a", date(2024, 1, 3)), ("a", "2024-01-04"), ("a", pd.Timestamp(day(4))))
    got = days.ours.get_historical_features(asked, FEE).to_arrow()
    assert got.column("fee").to_pylist() == [2.0, 3.0, 4.0]


def test_nanoseconds_are_cut_off_never_rounded_up(days: World) -> None:
    just_before = pd.Timestamp(day(3)) - pd.Timedelta(nanoseconds=1)
    assert fees(days, ("a", just_before)) == [2.0]


def test_another_name_for_the_only_timestamp_column(days: World) -> None:
    asked = frame(("a", day(3))).rename(columns={"event_timestamp": "seen_at"})
    got = days.ours.get_historical_features(asked, FEE).to_arrow()
    assert got.column_names == ["user_id", "seen_at", "fee"]
    assert got.column("fee").to_pylist() == [3.0]


def test_an_empty_frame_gives_an_empty_result_with_all_columns(days: World) -> None:
    asked = frame(("a", day(3))).head(0)
    got = days.ours.get_historical_features(asked, PLAN).to_arrow()
    assert got.num_rows == 0
    assert got.column_names == ["user_id", "event_timestamp", "fee", "months", "net"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (frame(("a", day(1))).drop(columns="user_id"), "no column user_id"),
        (frame(("a", day(1))).drop(columns="event_timestamp"), "no column event_timestamp"),
        (frame(("a", day(1)), (None, day(1))), "user_id is null in 1 of 2 rows, first in row 1"),
        (frame(("a", pd.NaT), ("a", day(1))), "event_timestamp is null in 1 of 2 rows"),
        (frame((7, day(1))), r"user_id holds int64 \(row 0: 7\); ids are text"),
        (frame(("a", 20240101)), "event_timestamp is not made of instants"),
        (frame(("a", "yesterday")), "event_timestamp is not made of instants"),
        (frame(("a", day(1)), fee=[1.0]), "column fee has the name of a feature of plan_features"),
        (frame(("a", day(1)), x=[object()]), "column x mixes object"),
        (frame(("a", day(1)), ("a", day(2)), x=[1, "b"]), "column x mixes int and str"),
        (
            pd.concat([frame(("a", day(1))), frame(("a", day(1)))[["user_id"]]], axis=1),
            "several columns named user_id",
        ),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else "",
)
def test_a_frame_that_cannot_be_used_says_why(days: World, asked: pd.DataFrame, says: str) -> None:
    with pytest.raises(EntityFrameError, match=says):
        days.ours.get_historical_features(asked, FEE)


def test_an_unknown_feature_or_view_is_named(days: World) -> None:
    with pytest.raises(Exception, match="feee"):
        days.ours.get_historical_features(frame(("a", day(1))), ["plan_features:feee"])
    with pytest.raises(FeastObjectNotFoundException, match="plans"):
        days.ours.get_historical_features(frame(("a", day(1))), ["plans:fee"])


def test_a_feature_without_its_column_or_table_says_what_to_run(days: World) -> None:
    days.connection.execute("alter table features.plan_features rename column fee to price")
    days.connection.execute("alter view published.plan_features rename column fee to price")
    with pytest.raises(ValueError, match=r"plan_features:fee is no column .* dbt build"):
        days.ours.get_historical_features(frame(("a", day(1))), FEE)
    days.connection.execute("drop view published.plan_features")
    with pytest.raises(ValueError, match=r"published.plan_features does not exist: .*dbt build"):
        days.ours.get_historical_features(frame(("a", day(1))), FEE)


def test_ids_are_data_never_sql(world: World) -> None:
    names = ["'; drop table x; --", 'a"b', "a,b", "a\nb", "a\\b", "\\N", "", "é", "NULL", "%s {}"]
    world.put("plan_features", *(Version(n, day(1), day(5), (1.0, 1, n)) for n in names))
    asked = frame(*((name, day(2)) for name in names))
    got = world.ours.get_historical_features(asked, ["plan_features:net"]).to_arrow()
    assert got.column("net").to_pylist() == names


# --- an entity query ---------------------------------------------------------------------------


def test_an_entity_query_is_one_select(days: World) -> None:
    query = """
        select 'a' as user_id, timestamptz '2024-01-01' + n * interval '1 day' as event_timestamp,
            n as label, 'x;y{}' as text -- days
        from generate_series(3, 1, -1) as n; """
    got = days.ours.get_historical_features(query, FEE).to_arrow()
    assert got.column("fee").to_pylist() == [3.0, 2.0, 1.0]
    assert got.column_names == ["user_id", "event_timestamp", "label", "text", "fee"]


@pytest.mark.parametrize(
    "query",
    [
        "delete from features.plan_features returning user_id, as_of as event_timestamp",
        "select 1; drop table features.plan_features",
        "select 1) as x; drop table features.plan_features; select (1",
        "with gone as (delete from features.plan_features returning *) "
        "select user_id, as_of as event_timestamp from gone",
        "select 'a' as user_id, now() as event_timestamp into features.copied",
        "select nextval('s') as user_id, now() as event_timestamp",
        "select 'a' as user_id, now() as event_timestamp, '{1}'::int[] as list",
        "select nothing from nowhere",
        "",
    ],
)
def test_an_entity_query_that_is_anything_else_is_refused(days: World, query: str) -> None:
    days.connection.execute("create sequence s")
    with pytest.raises(EntityFrameError, match="entity query"):
        days.ours.get_historical_features(query, FEE).to_arrow()
    count = days.connection.execute("select count(*) from features.plan_features").fetchone()
    assert count == (10,)
