"""An erased user is nowhere: no table, file, dump or online store; and does not come back.

If one of these fails, a person who asked to be forgotten is still here, or others lost something.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import hmac
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.database import Database
from data.load.load import load
from data.postgres.server import EmbeddedServer
from orchestration import steps
from orchestration.upkeep import erase as erasing
from orchestration.upkeep.erase import main
from streamflow_feast.training.training_set import write_training_set
from tests.dbt.builds import execute, rows

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """data/processed of this test alone."""
    folder = tmp_path / "processed"
    folder.mkdir()
    monkeypatch.setattr(erasing, "PROCESSED", folder)
    return folder


@pytest.fixture
def one() -> str:
    """Somebody of whom there is a device, an event of each kind, and a row in each month."""
    return rows(
        "select user_id from raw.users where user_id in (select user_id from raw.payments)"
        " and user_id in (select user_id from raw.support)"
        " and user_id in (select user_id from online.user_device_features)"
        " and user_id in (select user_id from published.user_features_latest"
        " group by 1 having count(*) = 3)"
        " group by 1 having count(*) = 3 order by 1 limit 1"
    )[0][0]


def dump(server: EmbeddedServer, database: Database) -> bytes:
    """All that a backup would hold, with the planner's statistics."""
    command = [str(server._binaries() / "pg_dump"), "--statistics", "-d", database.conninfo()]
    return subprocess.run(command, capture_output=True, check=True).stdout


def stands_in(folder: Path, word: str) -> list[str]:
    """The files below a folder that hold a word, also where they are packed."""
    found = []
    for file in folder.rglob("*"):
        if not file.is_file():
            continue
        raw = file.read_bytes()
        if file.suffix == ".gz":
            raw = gzip.decompress(raw)
        if file.suffix == ".parquet":
            raw += json.dumps(pq.read_table(file).to_pylist(), default=str).encode()
        if word.encode() in raw:
            found.append(file.name)
    return found


def others(user: str) -> dict[str, list[tuple]]:
    """Every published version of everybody else."""
    tables = [
        name for (name,) in rows("select viewname from pg_views where schemaname='published'")
    ]
    found = {}
    for table in tables:
        of = rows(
            "select to_jsonb(t) - 'user_id' <> to_jsonb(t) from published."
            + table
            + " as t limit 1"
        )
        where = f"where user_id <> '{user}'" if of and of[0][0] else ""
        found[table] = rows(f"select t::text from published.{table} as t {where} order by 1")
    return found


def pseudonym(user: str) -> str:
    return hmac.new(b"pepper", user.encode(), hashlib.sha256).hexdigest()


def fill(files: Path, user: str, drop: Path) -> None:
    """Files of each kind that hold the user."""
    write_training_set("2024-01-31..2024-03-31", out=files, keep_unlabelled=True)
    known_at = rows("select max(known_at) from ledger.publications")[0][0]
    write_training_set("2024-02-29", known_at, out=files, name="then", keep_unlabelled=True)
    (files / "refused").mkdir()
    (files / "refused" / "usage.csv").write_text(
        f'line,reasons,row\n7,"watch_ms: bad","e1,{user},x"\n8,"bad","e2,another-user,x"\n'
    )
    (files / "report_2024-03-31.html").write_text(f"<p>first of all {user}, then another-user</p>")
    logged = pa.table({"user_id": [user, "another", user], "skips_7d": [1, 2, 3]})
    (files / "served" / "day=2024-03-31").mkdir(parents=True)
    pq.write_table(logged, files / "served" / "day=2024-03-31" / "0.parquet")
    # As the API logs what it served: keys hashed by the folder's salt.
    (files / "feature_logs" / "churn_v1" / "2024-04-01").mkdir(parents=True)
    (files / "feature_logs" / ".salt").write_text("pepper")
    hashed = {"user_id": [pseudonym(user), pseudonym("another")], "__keys_hashed": [True, True]}
    pq.write_table(
        pa.table(hashed), files / "feature_logs" / "churn_v1" / "2024-04-01" / "0.parquet"
    )
    with gzip.open(files / "export.csv.gz", "wt", newline="") as out:
        out.write(f'user_id,note\r\n{user},"two\r\nlines"\r\nanother,"a ""quote"""\r\n')
        out.write(f"third,friend of {user}\r\n")


def test_an_erased_user_is_nowhere_and_everybody_else_is_as_before(
    sample: Database,
    server: EmbeddedServer,
    sample_drops: Path,
    files: Path,
    one: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill(files, one, sample_drops)
    execute(
        "insert into ledger.tests select invocation_id, 'x', 'x', 'test', 'fail', 1,"
        f" 'Key (user_id)=({one}) is twice', 0 from ledger.builds limit 1",
        "analyze raw.users",
    )
    registry = rows("select version, md5(blob) from online.registry")
    (tables_before, everybody) = (others(one), one.encode() in dump(server, sample))
    assert everybody
    before = {file: (files / file).read_text() for file in ("training_df.csv", "then.csv")}
    assert len(stands_in(files, one)) >= 8

    assert main([f"--id={one}"]) == 0

    said = capsys.readouterr().out
    assert "raw.usage: " in said
    assert one not in said
    assert one.encode() not in dump(server, sample)
    assert stands_in(files, one) == []
    assert others(one) == tables_before
    assert rows("select version, md5(blob) from online.registry") == registry

    # Files: the same less that user's rows, in the very bytes of a set that is made now.
    for name, text in before.items():
        kept = [line for line in text.splitlines() if line.split(",")[0] != one]
        assert (files / name).read_text().splitlines() == kept
    known_at = json.loads((files / "then.json").read_text())["known_at"]
    again = tmp_path / "again"
    write_training_set("2024-01-31..2024-03-31", out=again, keep_unlabelled=True)
    write_training_set("2024-02-29", known_at, out=again, name="then", keep_unlabelled=True)
    for name in ("training_df", "then"):
        for ending in ("csv", "parquet"):
            made, kept_file = again / f"{name}.{ending}", files / f"{name}.{ending}"
            assert made.read_bytes() == kept_file.read_bytes(), kept_file.name
        told, new = (json.loads((f / f"{name}.json").read_text()) for f in (files, again))
        assert told.pop("rows_were_erased") is True
        assert told == new
    assert (files / "report_2024-03-31.html").read_text() == (
        "<p>first of all (erased), then another-user</p>"
    )
    assert "another-user" in (files / "refused" / "usage.csv").read_text()
    with gzip.open(files / "export.csv.gz", "rb") as packed:
        assert packed.read() == (
            b'user_id,note\r\nanother,"a ""quote"""\r\nthird,friend of (erased)\r\n'
        )
    assert pq.read_table(files / "served" / "day=2024-03-31" / "0.parquet").to_pylist() == [
        {"user_id": "another", "skips_7d": 2}
    ]

    logged = files / "feature_logs" / "churn_v1" / "2024-04-01" / "0.parquet"
    assert pq.read_table(logged).column("user_id").to_pylist() == [pseudonym("another")]

    # The record says what was done, and not to whom.
    ((entity, asked, found, ended),) = rows(
        "select entity, asked_for, found, ended_at is not null from raw.erasures"
    )
    assert (entity, asked, ended) == ("user", 1, True)
    assert found["raw.users"] == 3
    assert found["features.usage_features"] == 3
    assert found["files"] >= 8

    # Not resurrected by an old drop, and all goes on.
    for drop in sorted(sample_drops.iterdir()):
        loaded = load(drop)
        assert not loaded.changed
        assert loaded.tables["users"].erased == 1
        assert any("of who was erased" in line for line in loaded.warnings)
    steps.pipeline()
    assert one.encode() not in dump(server, sample)
    assert others(one) == tables_before
    assert rows("select count(*) from raw.users where user_id = %s", one) == [(0,)]


def test_a_row_of_an_erased_user_with_an_error_refuses_nobody_elses(
    sample: Database, sample_drops: Path, files: Path, one: str, tmp_path: Path
) -> None:
    assert main([f"--id={one}"]) == 0
    drop = tmp_path / "2024-03-31"
    shutil.copytree(sorted(sample_drops.iterdir())[-1], drop)
    text = (drop / "users.csv").read_text().splitlines()
    place = next(n for n, line in enumerate(text) if line.startswith(f"{one},"))
    text[place] = ",".join([one, *["nonsense"] * text[place].count(",")])
    (drop / "users.csv").write_text("\n".join(text) + "\n")
    refused = tmp_path / "refused"
    assert not load(drop, quarantine=refused).changed
    assert not refused.exists()
    assert not load(drop).changed


def test_an_erasure_that_is_killed_anywhere_is_ended_by_the_same_command(
    sample: Database, server: EmbeddedServer, files: Path, one: str, tmp_path: Path
) -> None:
    fill(files, one, Path())
    code = (
        "import sys; from pathlib import Path; import orchestration.upkeep.erase as e;"
        f"e.PROCESSED = Path({str(files)!r}); sys.exit(e.main(['--id={one}']))"
    )
    command = [sys.executable, "-c", code]
    kills = 0
    for delay in (0.6 * 1.25**n for n in range(30)):  # later and later, until one ends before
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            assert process.wait(delay) == 0
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    assert kills >= 4
    assert one.encode() not in dump(server, sample)
    assert stands_in(files, one) == []
    assert rows("select count(*) filter (where ended_at is null), count(*) from raw.erasures") in (
        [(0, 1)], [(0, 2)],
    )  # fmt: skip
    for name in ("training_df", "then"):
        told = json.loads((files / f"{name}.json").read_text())
        assert "erasing" not in told
        assert told["rows"] == pq.read_table(files / f"{name}.parquet").num_rows
        for file, described in told["files"].items():
            assert described["bytes"] == (files / file).stat().st_size


def test_a_device_and_a_pair_are_erased_by_their_keys(
    sample: Database, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (user, device), (user_2, device_2) = rows(
        "select user_id, device_id from published.user_device_features_latest"
        " group by 1, 2 order by 1, 2 limit 2"
    )
    pairs = tmp_path / "pairs.csv"
    with pairs.open("w", newline="") as out:
        csv.writer(out).writerows([["user_id", "device_id"], [user, device]])
    assert main(["--entity=user_device", f"--file={pairs}"]) == 0
    both = "select count(*) from raw.usage where user_id = %s and device_id = %s"
    assert rows(both, user, device) == [(0,)]
    assert rows("select count(*) > 0 from raw.users where user_id = %s", user) == [(True,)]
    assert rows(both, user_2, device_2)[0][0] > 0
    assert main(["--entity=device", f"--id={device_2}"]) == 0
    assert rows("select count(*) from raw.usage where device_id = %s", device_2) == [(0,)]
    assert rows("select count(*) from online.device_features where device_id = %s", device_2) == [
        (0,)
    ]
    assert rows("select entity, count(*) from raw.erased group by 1 order by 1") == [
        ("device", 1), ("device,user", 1),
    ]  # fmt: skip


def test_what_cannot_be_an_id_is_told_and_nothing_is_erased(
    sample: Database, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = tmp_path / "ids"
    ids.write_bytes(b"\xff")
    for arguments, said in (
        ([], "say whom: make erase USER=<id>"),
        (["--id= "], "the id is ' '; expected a text"),
        (["--entity=nobody", "--id=x"], "there is no entity 'nobody'"),
        (["--entity=user_device", "--id=x"], 'expected {"device_id": "...", "user_id": "..."}'),
        ([f"--file={ids}"], "cannot be read"),
        (["--id=x", "--table=public.nothing"], "there is no such table"),
    ):
        assert main(arguments) == 1
        assert said in capsys.readouterr().err
    assert rows("select count(*) from raw.erased") == [(0,)]
    assert main(["--id=nobody-at-all"]) == 0
    assert "nothing was here of them" in capsys.readouterr().out
    assert main(["--id=nobody-at-all", "--readmit"]) == 0
    assert rows("select count(*) from raw.erased") == [(0,)]


def test_after_a_restore_everybody_on_the_list_is_looked_for_again(
    sample: Database, files: Path, one: str
) -> None:
    before = rows("select * from raw.users where user_id = %s", one)
    assert main([f"--id={one}"]) == 0
    with psycopg.connect(sample.conninfo()) as connection:
        for row in before:
            connection.execute(
                f"insert into raw.users values ({', '.join(['%s'] * len(row))})", row
            )
    assert main(["--again"]) == 0
    assert rows("select count(*) from raw.users where user_id = %s", one) == [(0,)]


def test_an_erasure_waits_for_a_training_set_and_takes_them_out_of_it(
    sample: Database, files: Path, one: str
) -> None:
    """It was read before and is written afterwards."""
    waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
    erased: list[int] = []
    thread = threading.Thread(target=lambda: erased.append(main([f"--id={one}"])))
    with steps._no_erasure_meanwhile():
        thread.start()
        deadline = time.monotonic() + 60
        while rows(waiting) == [(0,)]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        write_training_set("2024-01-31", out=files, keep_unlabelled=True)
        assert stands_in(files, one)
    thread.join(60)
    assert erased == [0]
    assert stands_in(files, one) == []


def test_a_build_that_waits_for_the_erasure_is_not_taken_for_one_that_runs(
    sample: Database, files: Path, one: str
) -> None:
    """A killed build left its mark, and the next one was begun: neither may wait for the other."""
    execute(
        "insert into ledger.builds (known_at, invocation_id, status, load_from, load_to, recompute)"
        " values (clock_timestamp(), 'dead', 'running', 0, 0, false)"
    )
    next_build = (
        "import psycopg; from data.database import Database;"
        "c = psycopg.connect(Database().conninfo(application_name='dbt'));"
        "c.execute(\"select pg_advisory_xact_lock(hashtext('streamflow build'))\")"
    )
    with psycopg.connect(sample.conninfo()) as first:  # so that the build stands in line
        first.execute("select pg_advisory_xact_lock(hashtext('streamflow build'))")
        erased: list[int] = []
        thread = threading.Thread(target=lambda: erased.append(main([f"--id={one}"])))
        thread.start()
        waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        for count in (1, 2):
            deadline = time.monotonic() + 60
            while rows(waiting) != [(count,)]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            if count == 1:
                process = subprocess.Popen([sys.executable, "-c", next_build], cwd=ROOT)
    thread.join(60)
    assert erased == [0]
    assert process.wait(60) == 0


def test_an_erasure_waits_for_a_build_that_runs(sample: Database, files: Path, one: str) -> None:
    """Else the build would append rows of somebody who is gone."""
    execute(
        "insert into ledger.builds (known_at, invocation_id, status, load_from, load_to, recompute)"
        " values (clock_timestamp(), 'live', 'running', 0, 0, false)"
    )
    code = (
        "import sys, orchestration.upkeep.erase as e;"
        f"from pathlib import Path; e.PROCESSED = Path({str(files)!r});"
        f"sys.exit(e.main(['--id={one}']))"
    )
    with psycopg.connect(sample.conninfo(application_name="dbt")) as building:
        building.execute("select 1")
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        assert process.stdout is not None
        assert "waiting for it to end" in process.stdout.readline()
        assert rows("select count(*) > 0 from raw.users where user_id = %s", one) == [(True,)]
    assert process.wait(60) == 0
    assert rows("select count(*) from raw.users where user_id = %s", one) == [(0,)]
    assert rows("select status from ledger.builds where invocation_id = 'live'") == [
        ("unpublished",)
    ]
