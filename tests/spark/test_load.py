"""Drops into the lake: the rows in effect, the counts and the words of errors are Postgres's.

If one of these fails, the two engines do not build from the same rows, and no feature can be equal.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from data.database import Database
from data.load.check import DropError
from data.load.load import load as load_postgres
from tests.dbt import builds, histories

lake_load = pytest.importorskip("data.lake.load", reason="Spark is not installed: make spark")


def in_effect(name: str) -> list[tuple]:
    """The rows of a raw table that count on the lake, as `builds.effective_rows` has them."""
    from data.contract import declared
    from data.lake.files import Lake

    duck = lake_load._duck(Lake.here(), declared())
    columns = ", ".join(histories.COLUMNS[name])
    if name not in builds.EVENT_KEYS:
        columns += ", as_of"
    query = f"select {columns} from raw_{name} where superseded_by is null"
    return _plain(duck.execute(query).to_arrow_table().to_pylist())


def in_postgres(name: str) -> list[tuple]:
    columns = ", ".join(histories.COLUMNS[name])
    if name not in builds.EVENT_KEYS:
        columns += ", cast(as_of at time zone 'UTC' as date) as as_of"
    found = builds.rows(f"select {columns} from raw.{name} where superseded_by is null")
    return _plain([dict(enumerate(row)) for row in found])


def _plain(rows: list[dict]) -> list[tuple]:
    """In a fixed order; 29.850 and 29.85 are one decimal, an instant is its microseconds."""
    return sorted(
        (
            tuple(
                value.timestamp() if hasattr(value, "timestamp") else
                str(value.normalize()) if hasattr(value, "normalize") else value
                for value in row.values()
            )
            for row in rows
        ),
        key=repr,
    )  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_is_in_effect_after_each_delivery_is_what_postgres_has(
    seed: int, database: Database, lake: Path, tmp_path: Path
) -> None:
    drawn = histories.draw(seed, 12)
    for number, delivery in enumerate(drawn.deliveries):
        drop = histories.write(tmp_path / str(number), delivery, number)
        here, there = load_postgres(drop), lake_load.load(drop)
        assert there.tables == here.tables
        assert there.warnings == here.warnings
        assert (there.load_id is None) == (here.load_id is None)
        for name in histories.COLUMNS:
            assert in_effect(name) == in_postgres(name), f"{name} after delivery {number}"


def write_drop(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


USERS = "user_id,signup_date,user_gender,user_is_senior,has_family,has_dependents\n"
BAD = {
    "a cell": {"users": USERS + "u1,2024-01-40,Female,true,true,true\n"},
    "a user twice": {"users": USERS + "u1,2024-01-01,,,,\nu1,2024-01-02,,,,\n"},
    "a user whom nobody lists": {
        "users": USERS + "u1,2024-01-01,,,,\n",
        "payments": "payment_id,user_id,attempted_at,amount,status\n"
        "p1,u2,2024-01-05T10:00:00Z,9.99,failed\n",
    },
    "one id, two events": {
        "users": USERS + "u1,2024-01-01,,,,\n",
        "payments": "payment_id,user_id,attempted_at,amount,status\n"
        "p1,u1,2024-01-05T10:00:00Z,9.99,failed\np1,u1,2024-01-05T10:00:01Z,9.99,failed\n",
    },
    "a column": {"users": "user_id,signup\nu1,2024-01-01\n"},
    "a cut line": {"users": USERS + "u1,2024-01-01\n"},
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_drop_is_refused_in_the_same_words_and_changes_nothing(
    what: str, database: Database, lake: Path, tmp_path: Path
) -> None:
    drop = write_drop(tmp_path / "2024-01-31", **BAD[what])
    with pytest.raises(DropError) as here:
        load_postgres(drop)
    with pytest.raises(DropError) as there:
        lake_load.load(drop)
    assert str(there.value) == str(here.value)
    assert lake_load.loads() == []
    assert not list(lake.rglob("*.parquet"))


def test_a_wrong_row_is_left_out_where_that_is_asked_for(
    database: Database, lake: Path, tmp_path: Path
) -> None:
    drop = write_drop(
        tmp_path / "2024-01-31",
        users=USERS + "u1,2024-01-01,,,,\nu2,never,,,,\n",
        payments="payment_id,user_id,attempted_at,amount,status\n"
        "p1,u1,2024-01-05T10:00:00Z,9.99,failed\np2,u2,2024-01-05T10:00:00Z,9.99,failed\n",
    )
    here = load_postgres(drop, quarantine=tmp_path / "here")
    there = lake_load.load(drop, quarantine=tmp_path / "there")
    assert there.tables == here.tables
    assert {name: rows.added for name, rows in there.tables.items()} == {"users": 1, "payments": 1}
    for name in ("users", "payments"):
        refused = [tmp_path / side / "2024-01-31" / f"{name}.csv" for side in ("here", "there")]
        assert refused[0].read_text() == refused[1].read_text()


def test_a_load_that_was_killed_has_not_happened_and_the_same_command_repairs(
    database: Database, lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = histories.draw(5, 6).deliveries[:2]
    drops = [histories.write(tmp_path / str(n), d, n) for n, d in enumerate((first, second))]
    lake_load.load(drops[0])
    before = {name: in_effect(name) for name in histories.COLUMNS}

    def killed(self: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(lake_load._Merge, "commit", killed)  # all is written but the switch
        with pytest.raises(KeyboardInterrupt):
            lake_load.load(drops[1])
    left = list(lake.rglob("load-2.parquet"))
    assert left, "nothing was written before the switch"
    assert {name: in_effect(name) for name in histories.COLUMNS} == before
    for drop in drops:
        load_postgres(drop)
    assert lake_load.load(drops[1]).load_id == 2
    assert {name: in_effect(name) for name in histories.COLUMNS} == {
        name: in_postgres(name) for name in histories.COLUMNS
    }


def test_the_same_drop_again_writes_no_file(lake: Path, tmp_path: Path) -> None:
    drop = histories.write(tmp_path, histories.draw(7, 6).deliveries[0])
    assert lake_load.load(drop).changed
    files = {path: path.stat().st_mtime_ns for path in lake.rglob("*.parquet")}
    assert not lake_load.load(drop).changed
    assert {path: path.stat().st_mtime_ns for path in lake.rglob("*.parquet")} == files
    assert lake_load.last_load(drop) == 1


def test_a_type_that_the_lake_does_not_keep_is_named(lake: Path, tmp_path: Path) -> None:
    from data.contract import read

    text = (builds.PROJECT / "models" / "staging" / "_sources.yml").read_text()
    tables = read(
        text.replace("data_type: date\n", "data_type: jsonb\n").replace("since: signup_date", "")
    )
    drop = write_drop(tmp_path / "2024-01-31", users=USERS + 'u1,"{}",,,,\n')
    with pytest.raises(
        DropError, match=r"signup_date: is declared as jsonb, which the lake does not keep"
    ):
        lake_load.load(drop, tables=tables)
