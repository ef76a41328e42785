"""Refused rows left out, checks that load nothing, and what is odd but loaded."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from data.database import Database
from data.load.check import DropError
from data.load.load import TableResult, check, load
from tests.data.drops import USERS, everything

from .test_forms import DAY, put, refused, rows


def test_two_files_for_one_table_are_refused(database: Database, tmp_path: Path) -> None:
    csv = "user_id,signup_date\na,2024-01-01\n"
    folder = put(tmp_path / DAY, users__csv=csv, users__csv__gz=gzip.compress(csv.encode()))
    assert "users.csv and users.csv.gz are both users; leave one" in refused(folder, database)


def test_a_column_that_may_be_empty_may_be_absent(database: Database, tmp_path: Path) -> None:
    load(put(tmp_path / DAY, users__csv="signup_date,user_id\n2024-01-01,a\n"), database)
    assert rows(database, "users", "user_id, user_gender, has_family") == [("a", None, None)]
    (loads,) = rows_of_loads(database)
    assert loads == ["signup_date", "user_id"]


def rows_of_loads(settings: Database) -> list[Any]:
    with settings.connect() as connection:
        found = connection.execute("select recorded from raw.loads").fetchall()
        return [row[0] for row in found]


def test_refused_rows_are_left_out_and_written_with_their_reasons(
    database: Database, tmp_path: Path
) -> None:
    folder = put(
        tmp_path / DAY,
        users__csv="user_id,signup_date\na,2024-01-01\nb,yesterday\n",
        support__csv=(
            "ticket_id,user_id,opened_at,resolved_at,category\n"
            "t1,a,2024-03-01,,ticket/billing\n"
            "t1,a,2024-03-02T00:00:00,2024-04-02T00:00:00,ticket/billing\n"
            "t2,b,2024-03-02T00:00:00,,ticket/billing\n"
            "t3,a,2024-03-02T00:00:00,,ticket/billing\n"
            "t3,a,2024-03-02T00:00:00,,ticket/billing\n"
            "t4,a\n"
            "t5,nobody,2024-03-02T00:00:00,,ticket/billing\n"
        ),
    )
    before = everything(database)
    assert "users.csv: 1 error" in refused(folder, database)
    assert everything(database) == before
    result = load(folder, database, quarantine=tmp_path / "refused")
    assert result.tables["support"].read == 2
    assert result.tables["support"].added == 1
    assert "support.csv: 5 rows refused" in str(result)
    assert rows(database, "users", "user_id") == [("a",)]
    assert rows(database, "support", "ticket_id") == [("t3",)]
    kept = (tmp_path / "refused" / DAY / "support.csv").read_text().splitlines()
    assert kept[0] == "line,reasons,row"
    assert [line.split(",")[0] for line in kept[1:]] == ["2", "3", "4", "7", "8"]
    assert "resolved_at: '2024-04-02T00:00:00' lies after the drop" in kept[2]
    assert "t2,b,2024-03-02T00:00:00" in kept[3]
    assert "user_id: 'b' is not known" in kept[3]


def test_a_check_loads_nothing_and_says_so(database: Database, drop) -> None:
    before = everything(database)
    said = [str(found) for found in check([drop(DAY, users=USERS)], database)]
    assert said[0].endswith("nothing was loaded; `load` would make it load 1")
    assert everything(database) == before


def test_a_check_of_several_drops_goes_on_as_loads_would(database: Database, drop) -> None:
    """Each drop is looked at as if those before it were loaded, and a wrong one stops no other."""
    session = "s,a,2024-02-01T00:00:00Z,,{},,"
    load(drop("2024-01-31", users=USERS), database)
    before = everything(database)
    folders = [
        drop("2024-02-29", users=[*USERS, "c,2024-02-03,,,,"], usage=[session.format(1)]),
        drop("2024-03-31", labels=["c,maybe"]),
        drop(
            "2024-04-30", labels=["c,true"], usage=[session.format(2), "t" + session.format(1)[1:]]
        ),
        drop("2024-05-31", labels=["d,true", "a,false"]),
    ]
    first, second, third, fourth = check(folders, database)
    assert [row.added for row in first.tables.values()] == [3, 1]
    assert isinstance(second, DropError)
    assert "line 2, churn_label: 'maybe'" in str(second)
    assert third.tables["usage"] == TableResult(2, 2, replaced=1, repeated=0, retracted=0)
    assert third.load_id == first.load_id + 1
    assert "labels.csv: 1 error" in str(fourth)
    (left_out,) = check(folders[3:], database, quarantine=True)
    assert "rows that would be refused:\nlabels.csv: 1 error\n  line 2, user_id: 'd' is not" in str(
        left_out
    )
    assert everything(database) == before


def test_what_is_odd_about_users_is_told(database: Database, drop) -> None:
    said = str(load(drop(DAY, users=[*USERS, f"c,{DAY},,,,"]), database))
    assert f"1 have signup_date {DAY} itself ('c')" in said
    session = "s,b,2024-03-01T00:00:00Z,,1,,"
    load(drop("2024-04-30", users=USERS, usage=[session]), database)
    load(drop("2024-04-30", users=USERS[:1]), database)
    said = str(load(drop(DAY, users=USERS[:1]), database))
    assert "1 are listed by no drop any more ('b'); their 1 events stay" in said or (
        "2 are listed by no drop any more" in said
    )


def test_raw_columns_of_an_earlier_release_are_widened(database: Database) -> None:
    from data.postgres.setup import set_up

    with database.connect() as connection:
        connection.execute("alter table raw.payments alter column amount type numeric(10,2)")
        connection.execute("create view staging.stg_payments as select amount from raw.payments")
    set_up(database)
    with database.connect() as connection:
        found = connection.execute(
            "select format_type(atttypid, atttypmod) from pg_attribute"
            " where attrelid = 'raw.payments'::regclass and attname = 'amount'"
        ).fetchone()
    assert found == ("numeric(17,2)",)
