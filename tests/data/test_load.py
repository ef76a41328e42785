"""Loads are idempotent, corrections take effect and can be taken back, and nothing is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path

import pytest

from data.contract import Column, declared
from data.contract.types import BOOLEAN
from data.database import Database
from data.load.load import LOAD_LOCK, LoadResult, TableResult, check, load
from data.postgres.setup import set_up
from tests.data.drops import HEADERS, ROOT, USERS, effective, everything

REAL = ROOT.parent / "shared" / "streamflow"
JAN, FEB, MAR = "2024-01-31", "2024-02-29", "2024-03-31"
Drop = Callable[..., Path]


def ticket(resolved: str = "", id: str = "t") -> str:
    return f"{id},a,2024-01-10T00:00Z,{resolved},ticket/billing"


def resolutions(settings: Database, horizon: int | None = None) -> list[tuple[str, str | None]]:
    """(ticket, day of resolution) of the tickets in effect."""
    rows = effective(settings, "support", horizon)
    return [(row[0], row[3] and f"{row[3]:%m-%d}") for row in rows]


def counts(result: LoadResult, table: str) -> tuple[int, int, int, int]:
    rows = result.tables[table]
    return rows.read, rows.added, rows.repeated, rows.retracted


def test_values_arrive_exactly_and_empty_means_null(database: Database, drop: Drop) -> None:
    load(
        drop(
            JAN,
            users=USERS,
            usage=[
                "s1,a,2024-01-31T00:00:00.000001+01:00,,0.0001,,0",
                "s2,a,2024-01-30 10:00,TV 5,59.9999,12,",
                '"s3",b,2024-01-30T10:00:00.5Z,"a ""b"", c",1,,',
            ],
            usage_agg_30d=["a,24.483650766787413,,3,,1"],
            subscriptions=["a,1,,false,,,29.85,,No"],
        ),
        database,
    )
    at = lambda *parts: datetime(2024, 1, 30, *parts, tzinfo=timezone.utc)  # noqa: E731
    assert effective(database, "usage") == [
        ("s1", "a", at(23, 0, 0, 1), None, Decimal("0.0001"), None, 0, JAN),
        ("s2", "a", at(10), "TV 5", Decimal("59.9999"), 12, None, JAN),
        ("s3", "b", at(10, 0, 0, 500_000), 'a "b", c', Decimal(1), None, None, JAN),
    ]
    assert effective(database, "usage_agg_30d") == [
        ("a", 24.483650766787413, None, 3, None, 1, JAN)
    ]
    fee = Decimal("29.85")
    assert effective(database, "subscriptions") == [
        ("a", 1, None, False, None, None, fee, None, "No", JAN)
    ]


def test_the_same_drop_again_changes_nothing(database: Database, drop: Drop) -> None:
    files = {"users": USERS, "support": [ticket("2024-01-12T00:00Z"), ticket(id="u")]}
    assert load(drop(JAN, **files), database).changed
    before = everything(database)
    # The same statements in other bytes: order of rows and columns, quotes, line ends, offsets.
    users = "has_family,user_id,has_dependents,user_is_senior,signup_date,user_gender"
    rows = ["False,b,,TRUE,2024-01-02,Male", ",a,,,2024-01-01,"]
    retold = drop(
        JAN,
        users="\r\n".join(["\ufeff" + users, *rows, ""]).encode(),
        support=[ticket(id="u"), '"t",a,2024-01-10 01:00+01,2024-01-12T00:00:00.0Z,ticket/billing'],
    )
    for folder in (retold, drop(JAN, **files)):
        result = load(folder, database)
        assert not result.changed
        assert {name: t.repeated for name, t in result.tables.items()} == {"users": 2, "support": 2}
    assert everything(database) == before


def test_repeats_inside_a_file_are_loaded_once(database: Database, drop: Drop) -> None:
    result = load(drop(JAN, users=USERS, support=[ticket(), ticket(), ticket()]), database)
    assert result.tables["support"] == TableResult(
        read=3, added=1, replaced=0, repeated=2, retracted=0
    )
    assert resolutions(database) == [("t", None)]


def test_a_corrected_drop_replaces_what_it_said(database: Database, drop: Drop) -> None:
    load(drop(JAN, users=USERS, labels=["a,true", "b,false"]), database)
    corrected = load(drop(JAN, labels=["a,false"]), database)
    assert counts(corrected, "labels") == (1, 1, 0, 1)
    assert effective(database, "labels", 1) == [("a", True, JAN), ("b", False, JAN)]
    assert effective(database, "labels") == [("a", False, JAN)]
    assert [row[0] for row in effective(database, "users")] == ["a", "b"], "file was not delivered"


def test_labels_of_two_drops_stand_side_by_side(database: Database, drop: Drop) -> None:
    load(drop(JAN, users=USERS, labels=["a,true"]), database)
    load(drop(FEB, users=USERS, labels=["a,false"]), database)
    assert effective(database, "labels") == [("a", True, JAN), ("a", False, FEB)]


def test_the_newest_drop_that_speaks_of_an_event_wins(database: Database, drop: Drop) -> None:
    load(drop(FEB, users=USERS, support=[ticket("2024-02-02T00:00Z")]), database)
    late = load(drop(JAN, support=[ticket(), ticket(id="u")]), database)
    assert counts(late, "support") == (2, 2, 0, 0)
    assert resolutions(database) == [("t", "02-02"), ("u", None)]
    load(drop(MAR, support=[ticket("2024-03-03T00:00Z")]), database)
    assert resolutions(database) == [("t", "03-03"), ("u", None)]
    for horizon, expected in ((1, [("t", "02-02")]), (2, [("t", "02-02"), ("u", None)])):
        assert resolutions(database, horizon) == expected, "the past must stay as it was seen"


def test_a_retracted_correction_brings_back_the_older_statement(
    database: Database, drop: Drop
) -> None:
    load(drop(JAN, users=USERS, support=[ticket()]), database)
    load(drop(FEB, support=[ticket("2024-02-02T00:00Z")]), database)
    load(drop(MAR, support=[ticket("2024-03-03T00:00Z")]), database)
    assert counts(load(drop(FEB, support=[]), database), "support") == (0, 0, 0, 1)
    assert resolutions(database) == [("t", "03-03")]
    load(drop(MAR, support=[]), database)
    assert resolutions(database) == [("t", None)], "only January speaks of it now"
    assert not load(drop(JAN, support=[ticket()]), database).changed, "it does so already"
    load(drop(JAN, support=[ticket("2024-01-11T00:00Z")]), database)
    assert resolutions(database) == [("t", "01-11")]
    load(drop(JAN, support=[]), database)
    assert resolutions(database) == []
    seen = [resolutions(database, horizon) for horizon in range(1, 7)]
    assert [rows[0][1] for rows in seen] == [None, "02-02", "03-03", "03-03", None, "01-11"]


def test_every_delivery_that_tells_something_is_in_the_ledger(
    database: Database, drop: Drop
) -> None:
    load(drop(JAN, users=USERS, usage=[]), database)
    load(drop(JAN, users=USERS, usage=[], labels=["a,true"]), database)
    with database.connect() as connection:
        rows = connection.execute(
            "select load_id, table_name, as_of, rows_read, rows_added, rows_retracted,"
            " length(sha256) from raw.loads order by 1, 2"
        ).fetchall()
    as_of = datetime(2024, 1, 31, tzinfo=timezone.utc)
    assert rows == [
        (1, "usage", as_of, 0, 0, 0, 64),
        (1, "users", as_of, 2, 2, 0, 64),
        (2, "labels", as_of, 1, 1, 0, 64),
    ]


def test_check_finds_out_what_load_would_do_and_does_nothing(
    database: Database, drop: Drop
) -> None:
    before = everything(database)
    (result,) = check([drop(JAN, users=USERS)], database)
    assert result.tables["users"].added == 2
    assert everything(database) == before


def test_a_user_retracted_by_the_same_folder_is_not_known(database: Database, drop: Drop) -> None:
    load(drop(JAN, users=USERS), database)
    with pytest.raises(ValueError, match="'b' is not known"):
        load(drop(JAN, users=USERS[:1], labels=["b,true"]), database)
    load(drop(FEB, labels=["b,true"]), database)


def test_a_file_without_a_last_line_end_is_loaded_with_a_warning(
    database: Database, drop: Drop
) -> None:
    content = "\n".join([HEADERS["users"], *USERS]).encode()
    result = load(drop(JAN, users=content), database)
    assert result.warnings == ["users.csv: the last line has no line end; is it complete?"]
    assert result.tables["users"].added == 2


def test_an_add_on_column_may_come_or_not(database: Database, drop: Drop) -> None:
    extra = Column("is_trial", BOOLEAN, "on trial", nullable=True, optional=True)
    tables = tuple(
        replace(table, columns=(*table.columns, extra)) if table.name == "labels" else table
        for table in declared()
    )
    load(drop(JAN, users=USERS, labels=["a,true"]), database)
    set_up(database, tables)
    assert not load(drop(JAN, labels=["a,true"]), database, tables=tables).changed
    with_extra = b"user_id,churn_label,is_trial\na,true,true\n"
    assert counts(load(drop(JAN, labels=with_extra), database, tables=tables), "labels")[1] == 1
    with database.connect() as connection:
        row = connection.execute(
            "select churn_label, is_trial from raw.labels where superseded_by is null"
        ).fetchall()
    assert row == [(True, True)]


def test_loads_at_the_same_time_wait_for_each_other(database: Database, drop: Drop) -> None:
    """Else two loads could both put a statement about one event into effect."""
    folders = [
        drop(day, users=USERS, support=[ticket(id=str(n)) for n in range(300)])
        for day in (JAN, FEB, MAR)
    ]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda folder: load(folder, database), folders * 2))
    assert sum(result.changed for result in results) == 3
    assert len(effective(database, "support")) == 300
    assert {row[-1] for row in effective(database, "support")} == {MAR}
    with database.connect() as connection:
        assert connection.execute(
            "select count(*) from raw.loads as a join raw.loads as b"
            " on a.load_id < b.load_id and a.loaded_at >= b.loaded_at"
        ).fetchone() == (0,)


@pytest.mark.parametrize(
    "block",
    [f"select pg_advisory_xact_lock({LOAD_LOCK})", "lock table raw.loads in share mode"],
    ids=["before the first row is merged", "before the ledger is written"],
)
def test_a_killed_load_changes_nothing_and_can_be_repeated(
    block: str, database: Database, drop: Drop
) -> None:
    """The load is held up at a known point, killed there, and let go."""
    load(drop(JAN, users=USERS), database)
    before = everything(database)
    folder = drop(FEB, users=USERS, usage=[f"s{n},a,2024-02-01T00:00Z,,1,," for n in range(500)])
    loading = "select count(*), count(*) filter (where wait_event_type = 'Lock')"
    loading += " from pg_stat_activity where application_name = 'streamflow load'"
    with database.connect() as holder, database.connect() as watcher:
        watcher.autocommit = True

        def wait_for(expected: tuple[int, int]) -> None:
            deadline = time.monotonic() + 20
            while (seen := watcher.execute(loading).fetchone()) != expected:
                assert time.monotonic() < deadline, f"loads and waiting loads: {seen}"
                time.sleep(0.02)

        holder.execute(block)
        victim = subprocess.Popen([sys.executable, "-m", "data", "load", str(folder)], cwd=ROOT)
        wait_for((1, 1))
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        holder.rollback()
        wait_for((0, 0))
    assert everything(database) == before
    assert load(folder, database).tables["usage"].added == 500
    assert len(effective(database, "usage")) == 500


def test_the_real_drops_load(database: Database) -> None:
    if not REAL.exists():
        pytest.skip(f"the real StreamFlow drops are not at {REAL}: NOT TESTED against real data")
    for day in (JAN, FEB):
        assert {t.added for t in load(REAL / day, database).tables.values()} == {7043}
    assert not load(REAL / JAN, database).changed
    labels = effective(database, "labels")
    assert [sum(row[1] for row in labels if row[-1] == day) for day in (JAN, FEB)] == [1869, 1701]
    plans = [row[2] for row in effective(database, "subscriptions") if row[-1] == JAN]
    assert plans.count(None) == 1526
    fees = {row[0]: row[6] for row in effective(database, "subscriptions")}
    assert fees["7590-VHVEG"] == Decimal("29.85")
