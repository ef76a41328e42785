"""A backup comes back in a new cluster and answers in the same bytes.

If one of these fails, there is no backup; or one that serves features nobody can account for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.__main__ import main as data
from data.database import Database
from data.load.load import load
from data.postgres.server import EmbeddedServer
from orchestration import steps
from orchestration.upkeep import backup as backing
from orchestration.upkeep import erase as erasing
from orchestration.upkeep.backup import BackupError, backup, main, restore
from streamflow_feast.connections import close_pools
from streamflow_feast.training.training_set import write_training_set
from tests.dbt.builds import everything, execute, rows


@pytest.fixture
def elsewhere(
    free_port, session_folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """From here on the settings are those of another machine: no server there, no cluster."""
    folder = session_folder / "elsewhere"
    close_pools()
    monkeypatch.setenv("STREAMFLOW_PG_PORT", str(free_port()))
    monkeypatch.setenv("STREAMFLOW_STATE", str(folder))
    yield folder
    close_pools()
    server = EmbeddedServer()
    server.stop("immediate")
    for one in (server.home, server.socket, folder):
        shutil.rmtree(one, ignore_errors=True)


@pytest.fixture
def processed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "processed"
    for module in (backing, erasing):
        monkeypatch.setattr(module, "PROCESSED", folder)
    return folder


@pytest.fixture
def said(sample: Database, tmp_path: Path) -> dict[str, object]:
    """What the sample's database answers, asked before it moves."""
    return answers(tmp_path / "before")


def answers(folder: Path) -> dict[str, object]:
    known_at = rows("select max(known_at) from ledger.publications")[0][0]
    made = write_training_set("2024-01-31..2024-03-31", known_at, out=folder)
    online = {
        name: rows(f"select t::text from online.{name} as t order by 1")
        for (name,) in rows(
            "select tablename::text from pg_tables where schemaname = 'online' order by 1"
        )
    }
    return {
        "versions": everything(),
        "online": online,
        "training": [file.read_bytes() for file in made.files],
    }


def test_a_backup_restores_into_a_new_cluster_to_the_same_bytes(
    said: dict, processed: Path, tmp_path: Path, elsewhere_after, sample_drops: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = tmp_path / "backup.dump"
    assert main(["backup", "--to", str(file)]) == 0
    assert file.stat().st_mode & 0o077 == 0
    elsewhere_after()
    assert main(["restore", "--from", str(file)]) == 0
    assert "restored from" in capsys.readouterr().out
    assert answers(tmp_path / "restored") == said
    steps.pipeline()
    now = answers(tmp_path / "built")
    assert now["versions"] == said["versions"]
    known_at = json.loads((tmp_path / "before" / "training_df.json").read_text())["known_at"]
    again = write_training_set("2024-01-31..2024-03-31", known_at, out=tmp_path / "again")
    assert [one.read_bytes() for one in again.files] == said["training"]
    for drop in sample_drops.iterdir():
        assert not load(drop).changed
    assert main(["restore", "--from", str(file)]) == 1
    assert "holds 18 loads and 2 builds" in capsys.readouterr().err


@pytest.fixture
def elsewhere_after(request: pytest.FixtureRequest):
    """Moves the settings when it is called, after the first database was asked."""
    return lambda: request.getfixturevalue("elsewhere")


def test_a_base_backup_starts_as_it_was(
    said: dict, server: EmbeddedServer, sample: Database, tmp_path: Path, elsewhere_after
) -> None:
    copy = server.home / "base-backup"
    server._run(
        "pg_basebackup", "--pgdata", str(copy), "--checkpoint=fast", "--wal-method=stream",
        "--dbname", sample.conninfo(),
    )  # fmt: skip
    elsewhere_after()
    other = EmbeddedServer()
    other.home.mkdir(parents=True, exist_ok=True)
    other._own(other.home)
    copy.rename(other.cluster)
    assert data(["up"]) == 0
    assert answers(tmp_path / "restored") == said
    steps.audit()


def test_a_backup_that_was_cut_off_changes_nothing(
    sample: Database, database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "backup.dump"
    with pytest.raises(BackupError, match="there is no file"):
        restore(file)
    file.write_bytes(b"no dump")
    with pytest.raises(BackupError, match="nothing was changed"):
        restore(file)


def test_whoever_was_erased_since_is_erased_again(
    sample: Database, processed: Path, tmp_path: Path, elsewhere_after,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = tmp_path / "backup.dump"
    backup(file)
    user = rows("select min(user_id) from online.user_features")[0][0]
    assert erasing.main([f"--id={user}"]) == 0
    elsewhere_after()
    assert main(["restore", "--from", str(file)]) == 0
    assert "1 were erased since" in capsys.readouterr().out
    assert rows("select count(*) from online.user_features where user_id = %s", user) == [(1,)]
    assert erasing.main(["--again"]) == 0
    assert rows("select count(*) from online.user_features where user_id = %s", user) == [(0,)]
    assert rows("select count(*) from raw.users where user_id = %s", user) == [(0,)]


def test_an_online_store_newer_than_the_restored_ledger_is_brought_back(
    sample: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when schema online was no part of what was restored: a month more, and a stranger."""
    before = rows("select t::text from online.usage_features as t order by 1")
    execute(
        "update online.usage_features set as_of = as_of + interval '1 month',"
        " known_at = known_at + interval '1 day', skips_7d = 99",
        "insert into online.usage_features (user_id, as_of, known_at)"
        " select 'stranger', as_of, known_at from online.usage_features limit 1",
    )
    steps.materialize()
    assert "as after a restore" in capsys.readouterr().out
    columns = "user_id, as_of, known_at, skips_7d, watch_hours_30d"
    now = rows(f"select ({columns})::text from online.usage_features order by 1")
    assert len(now) == len(before)
    steps.audit()
    steps.materialize()
    assert "as after a restore" not in capsys.readouterr().out
