"""Drops of later months than the sample's, and a second copy of the sample within one test."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from data.database import Database


def as_ofs(table: str) -> set[str]:
    """The dates of the as_of's in a table."""
    with Database().connect() as connection:
        query = sql.SQL("select distinct as_of from {}").format(sql.Identifier(*table.split(".")))
        return {f"{row[0]:%Y-%m-%d}" for row in connection.execute(query).fetchall()}


@pytest.fixture
def drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where Dagster looks for drops."""
    folder = tmp_path / "drops"
    folder.mkdir()
    monkeypatch.setenv("STREAMFLOW_DROPS", str(folder))
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "1")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return folder


@pytest.fixture
def deliver(sample_drops: Path, drops: Path) -> Callable[[str], Path]:
    """Makes the drop of a later day: that of 2024-03-31 once more, its events in that month."""

    def make(day: str) -> Path:
        drop = drops / day
        shutil.copytree(sample_drops / "2024-03-31", drop)
        for file, when in (("usage", "started_at"), ("payments", "attempted_at")):
            with (drop / f"{file}.csv").open() as opened:
                rows = list(csv.DictReader(opened))
            kept = [row for row in rows if "2024-03-01" <= row[when] < "2024-03-29"]
            assert kept
            with (drop / f"{file}.csv").open("w", newline="") as opened:
                writer = csv.DictWriter(opened, list(rows[0]), lineterminator="\n")
                writer.writeheader()
                for row in kept:
                    key = next(iter(row))
                    moved = row[when].replace("2024-03", day[:7])
                    writer.writerow(row | {key: f"{row[key]}-{day}", when: moved})
        (drop / "support.csv").unlink()
        return drop

    return make


@pytest.fixture
def fresh_sample(sample_template, sample: Database) -> Callable[[], None]:
    """Puts the database back to what `sample` was at the start."""

    def renew() -> None:
        admin = sample.model_copy(update={"database": "postgres"})
        with psycopg.connect(admin.conninfo(), autocommit=True) as connection:
            name = sql.Identifier(sample.database)
            connection.execute(sql.SQL("drop database {} with (force)").format(name))
            connection.execute(
                sql.SQL("create database {} template {}").format(
                    name, sql.Identifier(sample_template.ready())
                )
            )

    return renew
