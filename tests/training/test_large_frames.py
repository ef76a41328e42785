"""A large frame: which views are read as a whole, and what is read by COPY.

That both ways give the same answer is held by test_against_stock.py and the tests beside it, which
draw one of them for each example.
"""

from __future__ import annotations

import pandas as pd
import psycopg
import pyarrow as pa
import pytest
from psycopg import sql

from data.database import Database
from streamflow_feast.offline import arrow_copy, sweep

from .conftest import REFS, Version, World, day


def test_a_view_is_read_as_a_whole_when_that_costs_less_than_a_look_up_a_row(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a table ten times as large only as much as the frame needs is read."""
    history = [Version(f"u{i}", day(d), day(9), (1.0, i, "x")) for i in range(50) for d in range(9)]
    world.put("plan_features", *history)
    world.put("activity_features", *(Version(f"u{i}", day(1), day(9)) for i in range(5)))
    sizes = {
        view: world.connection.execute("select pg_table_size(%s)", [f"features.{view}"]).fetchone()
        for view in ("plan_features", "activity_features")
    }
    between = (sizes["plan_features"][0] + sizes["activity_features"][0]) // 2
    whole: list[str] = []

    def watched(view, frame, versions):
        whole.append(view.name)
        return newest(view, frame, versions)

    newest = sweep.newest
    monkeypatch.setattr(sweep, "newest", watched)
    answers = []
    for limit, expected in (
        (0, []),
        (between, ["activity_features"]),
        (10**9, ["activity_features", "plan_features"]),
    ):
        rows = [f"u{i % 60}" for i in range(200)]
        frame = pd.DataFrame({"user_id": rows, "event_timestamp": day(4.5)})
        monkeypatch.setattr(sweep, "BYTES_A_LOOK_UP", limit / len(rows))
        whole.clear()
        answers.append(world.ours.get_historical_features(frame, REFS).to_arrow())
        assert sorted(whole) == expected
        assert answers[-1].equals(answers[0])


@pytest.fixture
def connection(database: Database):
    with database.connect() as connection:
        yield connection


def numbers(text: str) -> sql.SQL:
    return sql.SQL(f"select {text} from generate_series(1, 100000) as n")  # type: ignore[arg-type]


def test_an_error_of_the_server_in_the_middle_of_a_copy_is_told(
    connection: psycopg.Connection,
) -> None:
    """Otherwise a training set would end where the error was."""
    schema = pa.schema([("n", pa.int64())])
    with pytest.raises(psycopg.errors.DivisionByZero, match="division by zero"):
        arrow_copy.read(connection, numbers("1 / (99999 - n)"), schema)
    connection.rollback()
    assert arrow_copy.read(connection, numbers("n"), schema).num_rows == 100_000


def test_a_connection_can_be_used_after_a_reader_that_gave_up(
    connection: psycopg.Connection,
) -> None:
    schema = pa.schema([("n", pa.int64())])
    with pytest.raises(pa.ArrowInvalid, match="x50000"):
        arrow_copy.read(
            connection, numbers("case n when 50000 then 'x' || n else n::text end"), schema
        )
    connection.rollback()
    assert connection.execute("select 1").fetchone() == (1,)


def test_a_query_that_fails_at_once_is_told_with_its_error(connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.UndefinedColumn, match="nothing"):
        arrow_copy.read(connection, sql.SQL("select nothing"), pa.schema([("n", pa.int64())]))
