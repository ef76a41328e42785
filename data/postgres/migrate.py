"""The project's own schema, step by step: `migrations/NNNN_name.sql`, each applied once, in order.

A step goes forward only and is never edited once released: what it left is in databases. All steps
of a set-up are one transaction, so that a database is at one release or at the next. Functions are
no steps (`ledger.sql`, `online.sql`): they hold no rows and are replaced at every set-up. The raw
tables follow from their declaration (raw_tables.py), the feature tables from dbt's models.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from data import __version__

FOLDER = Path(__file__).parent / "migrations"
FUNCTIONS = ("ledger.sql", "online.sql")
NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")

RECORD = """
create schema if not exists ledger;
create table if not exists ledger.migrations (
    number int primary key,
    name text not null,
    sha256 text not null,      -- of its text
    release text not null,     -- the code that applied it
    applied_at timestamptz not null default clock_timestamp()
);
"""


class MigrationError(RuntimeError):
    """The database's schema and this code do not go together; nothing was changed."""


@dataclass(frozen=True)
class Migration:
    """One step. `number` counts from 1 without a gap."""

    number: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations(folder: Path = FOLDER) -> list[Migration]:
    """The steps that this code knows, in order.

    Raises:
        MigrationError: a file is named otherwise, or a number is missing or there twice.
    """
    found = []
    for place, file in enumerate(sorted(folder.glob("*.sql")), start=1):
        named = NAME.fullmatch(file.name)
        if not named or int(named[1]) != place:
            raise MigrationError(f"{file.name}: expected {place:04}_<name>.sql, one a number")
        found.append(Migration(place, file.stem, file.read_text(encoding="utf-8")))
    return found


def migrate(
    connection: psycopg.Connection, steps: Sequence[Migration] | None = None
) -> list[Migration]:
    """Apply what the database lacks, in the transaction that is open; what that was.

    Raises:
        MigrationError: the database is newer than this code, or was made by steps with other texts.
    """
    steps = migrations() if steps is None else steps
    connection.execute(RECORD)
    applied = connection.execute(
        "select number, name, sha256, release from ledger.migrations order by number"
    ).fetchall()
    if len(applied) > len(steps):
        number, name, _, release = applied[-1]
        raise MigrationError(
            f"the database has the schema of release {release} (step {number}, {name}); this is "
            f"release {__version__}, which knows {len(steps)} steps, and nothing was changed. Run "
            f"release {release} or a later one; to go back, restore a backup of before its set-up "
            "(docs/operations.md)"
        )
    for step, (number, name, sha256, release) in zip(steps, applied, strict=False):
        if (step.number, step.sha256) != (number, sha256):
            raise MigrationError(
                f"the schema's step {number} was applied by release {release} as {name} with "
                f"another text than {step.name}.sql has here, and nothing was changed. A released "
                "step is never edited: bring its text back, and put the change into a new one"
            )
    for step in steps[len(applied) :]:
        connection.execute(step.text.encode())
        connection.execute(
            "insert into ledger.migrations values (%s, %s, %s, %s)",
            [step.number, step.name, step.sha256, __version__],
        )
    for file in FUNCTIONS:
        connection.execute((Path(__file__).parent / file).read_bytes())
    return list(steps[len(applied) :])
