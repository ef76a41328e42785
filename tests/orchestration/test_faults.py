"""Months that go wrong: killed, repeated, overlapping, with a bad drop among them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from psycopg import sql

from data.database import Database
from orchestration import steps
from tests.orchestration.conftest import as_ofs

pytest.importorskip("dagster", reason="extra `orchestration`: make test installs it")

ROOT = Path(__file__).resolve().parents[2]
CLOCKS = {"loaded_at", "known_at", "published_at"}
KILLS = ["ingest", "build", "apply", "materialize", "audit"]


def rows(*, clocks: bool) -> dict[str, Counter]:
    """Every row of raw, features, published and online."""
    found = {}
    with Database().connect() as connection:
        columns = connection.execute(
            "select table_schema, table_name, array_agg(column_name::text) from"
            " information_schema.columns where table_schema in ('raw', 'features', 'published',"
            " 'online') and table_name <> 'registry' group by 1, 2"
        ).fetchall()
        for schema, table, names in columns:
            kept = sorted(set(names) - (set() if clocks else CLOCKS))
            query = sql.SQL("select {} from {}").format(
                sql.SQL(", ").join(map(sql.Identifier, kept)), sql.Identifier(schema, table)
            )
            found[f"{schema}.{table}"] = Counter(map(repr, connection.execute(query).fetchall()))
    return found


def month(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("month.py")), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def test_a_month_killed_in_each_step_and_run_again_ends_as_if_undisturbed(
    sample: Database,
    fresh_sample: Callable[[], None],
    deliver: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """If this fails, a crash at night leaves features that nobody computed."""
    deliver("2024-04-30")
    counts = tmp_path / "counts.json"
    before = rows(clocks=False)
    month("2024-04", str(counts))
    undisturbed = rows(clocks=False)
    assert undisturbed["online.usage_features"] != before["online.usage_features"]
    assert min(json.loads(counts.read_text()).values()) > 1  # there is a middle to die in

    fresh_sample()
    assert rows(clocks=False) == before
    told = month("2024-04", str(counts), *KILLS).splitlines()
    assert [line for line in told if line.startswith("killed in")] == [
        f"killed in {step}" for step in KILLS
    ]
    settled = rows(clocks=True)  # the audit was the last to die, and writes none of these

    month("2024-04", str(counts))
    assert rows(clocks=False) == undisturbed
    assert rows(clocks=True) == settled  # the same month once more: no value changes and no clock


def test_a_bad_drop_stops_its_own_month(
    sample: Database, deliver: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused drop holds nobody up. One that fails a test is held back, and what follows it."""
    from orchestration.backfill import backfill

    refused, failing = deliver("2024-04-30"), deliver("2024-05-31")
    labels = refused / "labels.csv"
    labels.write_text(labels.read_text().replace(",false", ",maybe", 1))
    ingest = steps.ingest

    def ingest_with_a_blind_spot(folder: Path, **options: object) -> object:
        """The loader refuses all that dbt tests; so what it overlooks is put in behind it."""
        result = ingest(folder, **options)
        if folder == failing:
            with sample.connect() as connection:
                connection.execute(
                    "update raw.subscriptions set monthly_fee = -5 where as_of = '2024-05-31'"
                )
        return result

    monkeypatch.setattr(steps, "ingest", ingest_with_a_blind_spot)
    deliver("2024-06-30")
    published, online = as_ofs("published.usage_features"), as_ofs("online.usage_features")

    failed = backfill(["2024-04", "2024-05", "2024-06"])

    assert set(failed) == {"2024-04", "2024-05", "2024-06"}
    assert "maybe" in failed["2024-04"]
    assert failed["2024-04"].endswith(f"then run: make load DROP={refused}")
    for held in ("2024-05", "2024-06"):
        assert "nothing was published" in failed[held]
        assert "monthly_fee" in failed[held]
        assert failed[held].endswith("then run: make build")
    assert all("\n" not in line for line in failed.values())
    assert as_ofs("raw.loads") == published | {"2024-05-31", "2024-06-30"}
    assert as_ofs("published.usage_features") == published
    assert as_ofs("online.usage_features") == online

    monkeypatch.setattr(steps, "ingest", ingest)
    corrected = failing / "subscriptions.csv"
    first, second, rest = corrected.read_text().split("\n", 2)
    user, months, *others = second.split(",")
    second = ",".join([user, str(int(months) + 1), *others])
    corrected.write_text("\n".join([first, second, rest]))
    assert backfill(["2024-05"]) == {}
    assert as_ofs("published.usage_features") == published | {"2024-05-31", "2024-06-30"}
    assert as_ofs("online.usage_features") == {"2024-06-30"}


def test_of_two_builds_at_once_one_waits(sample: Database) -> None:
    """Both end well: a schedule that meets a person at `make build` fails neither of them."""
    told: list[str] = []
    with ThreadPoolExecutor(1) as thread:
        with sample.connect() as other, other.transaction():
            other.execute("select pg_advisory_xact_lock(hashtext('streamflow build step'))")
            waiting = thread.submit(steps.build, show=told.append)
            deadline = time.monotonic() + 60
            while not told and time.monotonic() < deadline:
                time.sleep(0.05)
            assert told == ["  another build is running: waiting for it to end"]
            builds = other.execute("select count(*) from ledger.builds").fetchone()
            time.sleep(0.5)
            assert other.execute("select count(*) from ledger.builds").fetchone() == builds
        assert waiting.result(timeout=120).statuses
    assert told[-1].strip().startswith("published as known at")
