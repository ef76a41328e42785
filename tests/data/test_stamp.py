# ruff: noqa: E501
"""Rows that another loader put into raw tables become loads, as if they had come as drops.

If one of these fails, people with a loader of their own (dlt, Airbyte, a CDC) get other features
than from files, or rows that a build overlooks.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from psycopg import sql

from data.__main__ import main
from data.contract import Table, declared
from data.database import Database
from data.load.load import load
from data.load.stamp import StampError, stamp
from data.postgres.raw_tables import BOOKKEEPING
from data.postgres.setup import set_up
from data.sample.generate import Plan, generate
from tests.data.drops import ROOT, USERS, Rows, effective, everything, write_drop
from tests.dbt import builds

JAN, FEB = "2024-01-31", "2024-02-29"


def run(settings: Database, *statements: str) -> None:
    with settings.connect() as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[arg-type]


def put(settings: Database, *sessions: str, day: str | None = JAN) -> None:
    """Viewing sessions as another loader writes them: nothing of a load."""
    as_of = f"'{day}'" if day else "null"
    for session in sessions:
        run(
            settings,
            "insert into raw.usage (session_id, user_id, started_at, watch_minutes, as_of)"
            f" values ({session}, {as_of})",
        )


def sessions(settings: Database) -> list[tuple]:
    return [(row[0], row[4], row[-1]) for row in effective(settings, "usage")]


def all_in_effect(settings: Database) -> dict[str, Rows]:
    return {table.name: effective(settings, table.name) for table in declared()}


def published() -> list[Rows]:
    """Every value that readers see, without when it was computed."""
    views = builds.rows(
        "select table_name from information_schema.views where table_schema = 'published'"
        " and right(table_name, 7) = '_latest' order by 1"
    )
    columns = "to_jsonb(v) - 'known_at'"
    return [
        builds.rows(f"select {columns} from published.{view} as v order by 1") for (view,) in views
    ]


def statements(settings: Database, table: Table) -> tuple[sql.Composed, Rows]:
    """How another loader would insert what drops stated, and the rows."""
    names = [*(column.name for column in table.columns), "as_of"]
    with settings.connect() as connection:
        found = connection.execute(
            sql.SQL("select {} from {}").format(
                sql.SQL(", ").join(map(sql.Identifier, names)), sql.Identifier("raw", table.name)
            )
        ).fetchall()
    insert = sql.SQL("insert into {} ({}) values ({})").format(
        sql.Identifier("raw", table.name),
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.SQL(", ").join([sql.Placeholder()] * len(names)),
    )
    return insert, found


def test_stamped_rows_give_the_features_that_drops_give(database: Database, tmp_path: Path) -> None:
    """Late, repeated and corrected events included; all at once, and the newest drop first."""
    for folder in generate(tmp_path / "drops", Plan(users=40, months=3)):
        load(folder, database)
    assert builds.build().success
    expected, features = all_in_effect(database), published()
    assert any(len(rows) for rows in features)
    kept = {table.name: statements(database, table) for table in declared()}
    days = [row[0] for row in builds.rows("select distinct as_of from raw.loads order by 1 desc")]
    for batches in ([days], [[day] for day in days]):
        builds.empty()
        for batch in batches:
            for name, (insert, rows) in kept.items():
                with database.connect() as connection, connection.cursor() as cursor:
                    cursor.executemany(insert, [row for row in rows if row[-1] in batch])
                assert all(load.rows for load in stamp(name, database))
        assert all_in_effect(database) == expected
        assert builds.build().success
        assert published() == features


def test_a_build_sees_rows_only_once_they_are_stamped(database: Database, tmp_path: Path) -> None:
    load(write_drop(tmp_path, JAN, users=USERS), database)
    put(database, "'s', 'a', '2024-01-30', 5")
    assert builds.build().success
    hours = "select watch_hours_30d from published.usage_features_latest where user_id = 'a'"
    assert builds.rows(hours) == [(None,)]
    lacking = (
        "select skips_7d, rebuffer_events_7d from published.usage_features_latest order by user_id"
    )
    (done,) = stamp("usage", database, lacks=["skips"])
    assert (done.load_id, done.rows, str(done.as_of.date())) == (2, 1, JAN)
    assert builds.build().success
    assert builds.rows(hours) == [(5 / 60,)]
    assert builds.rows(lacking) == [(None, None), (None, 0)]  # b had no session: zero is known
    with pytest.raises(
        StampError, match="'started_at' cannot lack; expected any of device_id, skips"
    ):
        stamp("usage", database, lacks=["started_at"])


def test_what_is_stated_again_replaces_and_what_is_not_stays(database: Database) -> None:
    put(database, "'s', 'a', '2024-01-30', 5", "'t', 'a', '2024-01-30', 5")
    stamp("usage", database)
    put(database, "'s', 'a', '2024-01-30', 6")
    stamp("usage", database)
    assert sessions(database) == [("s", 6, JAN), ("t", 5, JAN)]
    put(database, "'s', 'a', '2023-12-30', 7", day="2023-12-31")  # an older drop, late
    stamp("usage", database)
    assert sessions(database) == [("s", 6, JAN), ("t", 5, JAN)]
    before = everything(database)
    assert stamp("usage", database) == []
    assert everything(database) == before
    assert [(row[0], row[4]) for row in effective(database, "usage", 1)] == [("s", 5), ("t", 5)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["'s', 'a', '2024-01-30', 5", "'s', 'a', '2024-01-30', 6"], "1 of what waits cannot be loaded, and nothing was changed. session_id 's' is there more than once; leave one"),
        (["'s', 'a', '2024-02-01', 5"], "session_id 's' has started_at '2024-02-01 00:00:00+00'; that lies after its as_of"),
    ],
)  # fmt: skip
def test_rows_that_no_file_could_hold_are_refused_and_wait(
    database: Database, rows: list[str], expected: str
) -> None:
    put(database, *rows)
    before = everything(database)
    with pytest.raises(StampError) as refused:
        stamp("usage", database)
    assert expected in str(refused.value)
    assert "nothing was changed" in str(refused.value)
    assert everything(database) == before


def test_a_table_of_another_loader_is_checked_by_its_declaration(database: Database) -> None:
    """It has none of our constraints, and gains the columns that every raw table has."""
    run(
        database,
        "drop table raw.payments",
        "create table raw.payments (_loader_id serial primary key, payment_id varchar, user_id text,"
        " attempted_at timestamptz, amount numeric(17,2), status text)",
        "insert into raw.payments (payment_id, user_id, attempted_at, amount, status)"
        " values ('p', 'a', '2024-01-30', 9.99, 'success')",
    )
    set_up(database)
    with pytest.raises(
        StampError, match="payment_id 'p' has status 'success'; expected one of succ"
    ):
        stamp("payments", database)
    run(database, "update raw.payments set status = 'failed', user_id = null")
    with pytest.raises(StampError, match="user_id empty; expected a user id"):
        stamp("payments", database)
    run(database, "update raw.payments set user_id = 'a'")
    (done,) = stamp("payments", database)
    assert done.rows == 1
    columns = {
        row[0]
        for row in builds.rows(
            "select column_name from information_schema.columns where table_name = 'payments' and table_schema = 'raw'"
        )
    }
    assert columns > set(BOOKKEEPING)


def test_rows_behind_a_view_are_stamped_where_they_are(database: Database) -> None:
    run(
        database,
        "create schema warehouse",
        "create table warehouse.sessions (id text, customer text, began timestamptz, mins numeric(12,4),"
        " as_of timestamptz, load_id bigint, loaded_at timestamptz, replaced_by bigint, superseded_by bigint)",
        "insert into warehouse.sessions values ('s', 'a', '2024-01-30', 5)",
        "drop table raw.usage",
        "create view raw.usage as select id as session_id, customer as user_id, began as started_at,"
        " null::text as device_id, mins as watch_minutes, null::bigint as skips, null::bigint as"
        " rebuffer_events, as_of, load_id, loaded_at, replaced_by, superseded_by from warehouse.sessions",
    )
    set_up(database)
    assert main(["stamp", "usage", "--as-of", JAN, "--lacks", "skips", "device_id"]) == 0
    assert builds.rows("select id, load_id, as_of::date::text from warehouse.sessions") == [
        ("s", 1, JAN)
    ]


def test_the_text_about_other_loaders_does_what_it_says(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/bring-your-own-data.md: its SQL and its commands, in their order."""
    text = (ROOT / "docs" / "bring-your-own-data.md").read_text()
    for language, block in re.findall(r"```(sql|sh)\n(.*?)```", text, re.S):
        if language == "sql":
            run(database, block)
            continue
        for command in block.splitlines():
            if command == "make build":
                assert builds.build().success
            else:
                words = command.removeprefix("make").removeprefix("python -m data").split()
                assert main(words) == 0
    said = capsys.readouterr().out
    assert "load 1: 20 rows of users, as of 2024-03-31 00:00:00\nload 2: 70 rows of usage" in said
    assert builds.rows(
        "select count(*), min(watch_hours_30d), sum(skips_7d) from published.usage_features_latest"
    ) == [(20, 1.5, None)]
    assert builds.rows(
        "select paid_amount_90d from published.payment_features_latest where user_id = 'u-1'"
    ) == [(9.99,)]
    assert builds.rows("select load_id from warehouse.charges") == [(3,)]
    named = set(re.findall(r"^\| `(\w+)` \|", text, re.M))
    assert named == set(BOOKKEEPING)


def test_stamps_at_the_same_time_wait_for_each_other(database: Database) -> None:
    for _ in range(3):
        put(database, *(f"'s{n}', 'a', '2024-01-30', 5" for n in range(20)))
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda _: stamp("usage", database), range(4)))
        assert [len(loads) for loads in sorted(done, key=len)] == [0, 0, 0, 1]
    assert len(sessions(database)) == 20


def test_the_command_says_what_it_did_and_what_it_cannot_do(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    put(database, "'s', 'a', '2024-01-30', 5", day=None)
    assert main(["stamp", "usage", "payments", "--as-of", FEB]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "load 1: 1 rows of usage, as of 2024-02-29 00:00:00",
        "no rows of payments wait for a stamp",
    ]
    assert main(["stamp", "nothing"]) == 1
    assert (
        "'nothing' is no raw table; expected one of users, subscriptions" in capsys.readouterr().err
    )
    run(database, "update raw.usage set load_id = 77")
    with pytest.raises(StampError, match=r"load_id 77, which raw.loads does not know"):
        stamp("usage", database)
