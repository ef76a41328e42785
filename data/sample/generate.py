"""Drops of an invented streaming service, with what real deliveries are like.

Users come, watch, pay, complain and leave. Who fades (watches less every month), whose payments
fail and who opens tickets is likelier to leave, so a churn model has something to find. Rows come
late, are repeated, are corrected by a later drop, and some values are missing.

Users are made in chunks and each chunk month by month, so memory does not grow with their number.
Every chunk and month has a random stream of its own: the same arguments give the same bytes.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from data.contract import Table, declared
from data.load.check import to_date
from data.sample.aggregates import delivered_aggregates
from data.sample.population import Population
from data.sample.rows import DAY, DRAWN, Rows, concat

FIRST_DROP = date(2024, 1, 31)
PERIODS_BEFORE = 6  # months of history in the first drop: payments and tickets
USAGE_PERIODS_BEFORE = 3  # and viewing: 92 days, more than the longest window
CHUNK = 20_000
MOST_USERS = 2_000_000  # names of more would not stay different
GENERATED = ".generated"  # in every drop made here; only such folders are ever replaced
SCRATCH = ".new"  # in the folder of drops: what is not finished yet
GRAINS = ("events", "aggregates", "both")

LATE, REPEATED, CORRECTED, TWICE = 0.01, 0.004, 0.003, 0.002
"""Shares of rows that come one drop later, come again with the next drop, come wrong first and
right with the next drop, and stand twice in their file."""


class PlanError(ValueError):
    """The drops asked for cannot be generated."""


@dataclass(frozen=True)
class Plan:
    """What to generate. `sessions` is the mean number of viewing sessions a user and month."""

    users: int = 2_000
    months: int = 6
    seed: int = 1
    grain: str = "events"
    sessions: float = 8.0

    def drops(self) -> list[date]:
        """Month ends, from the first drop on."""
        return self.bounds()[PERIODS_BEFORE:]

    def bounds(self) -> list[date]:
        """Month ends between which the periods lie; period p is [bounds[p], bounds[p + 1])."""
        first = FIRST_DROP.year * 12 + FIRST_DROP.month
        months = range(first - PERIODS_BEFORE, first + self.months)
        return [date(m // 12, m % 12 + 1, 1) - timedelta(days=1) for m in months]


def generate(out: Path | str, plan: Plan | None = None) -> list[Path]:
    """Write the plan's drops into folder `out` and return their folders.

    Drops generated there before are replaced. The folder itself stays, and so does a hidden file in
    it: it may be a mount point, which nothing can be renamed over.

    Raises:
        PlanError: the plan makes no sense, or `out` holds something that was not generated, or
            may not be written to.
    """
    plan = plan or Plan()
    numbers_fit = 1 <= plan.users <= MOST_USERS and plan.months >= 1 and plan.seed >= 0
    if not numbers_fit or plan.grain not in GRAINS or not 0 <= plan.sessions <= 1_000:
        raise PlanError(
            f"users must be 1 to {MOST_USERS}, months 1 or more, seed 0 or more, "
            f"sessions 0 to 1000, grain one of {', '.join(GRAINS)}"
        )
    tables = _drawn()
    out = Path(out).resolve()
    before = _ours(out)
    scratch = out / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
    except OSError as error:
        raise PlanError(_not_writable(out, error)) from None
    folders = [scratch / day.isoformat() for day in plan.drops()]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / GENERATED).write_text(json.dumps(plan.__dict__) + "\n")
        for table in tables:
            delivered = {"state": GRAINS, "event": GRAINS[::2], "aggregate": GRAINS[1:]}
            if plan.grain in delivered[table.grain]:
                (folder / table.file).write_text(",".join(DRAWN[table.name].split()) + "\n")
    for number, start in enumerate(range(0, plan.users, CHUNK)):
        _Chunk(plan, number, min(CHUNK, plan.users - start), folders).write()
    for folder in before:
        shutil.rmtree(folder)
    for folder in folders:
        folder.rename(out / folder.name)
    scratch.rmdir()
    return [out / folder.name for folder in folders]


def _drawn() -> list[Table]:
    """The declared tables that the sample has rows for; other tables and columns may be absent."""
    tables = {table.name: table for table in declared()}
    for name, drawn in DRAWN.items():
        columns = {c.name: c for c in tables[name].columns} if name in tables else {}
        for wanted in drawn.split():
            if wanted not in columns:
                raise PlanError(
                    f"the sample draws {name}.{wanted}, which _sources.yml does not declare; load "
                    "drops of your own"
                )
        for column in columns.values():
            if column.name not in drawn.split() and not column.may_be_absent:
                raise PlanError(
                    f"the sample has no values for {name}.{column.name}; declare it nullable in "
                    "_sources.yml, or load drops of your own"
                )
    return [tables[name] for name in DRAWN]


def _ours(out: Path) -> list[Path]:
    """The drops in `out`, all of them generated."""
    found = [entry for entry in sorted(out.glob("*")) if not entry.name.startswith(".")]
    for entry in found:
        if to_date(entry.name) is None or not (entry / GENERATED).exists():
            raise PlanError(
                f"{entry} was not generated and would be lost; choose another folder with --out"
            )
    return found


def _not_writable(out: Path, error: OSError) -> str:
    place = next(folder for folder in (out, *out.parents) if folder.exists())
    about = place.stat()
    return (
        f"cannot write to {out}: {error.strerror}; {place} belongs to {about.st_uid}:{about.st_gid}"
        f", and this is {os.geteuid()}:{os.getegid()}. In a container that is STREAMFLOW_UID and "
        "STREAMFLOW_GID in .env; otherwise choose another folder with --out"
    )


@dataclass
class _Chunk:
    """Some users through all months."""

    plan: Plan
    number: int
    users: int
    folders: list[Path]
    waiting: dict[int, list[Rows]] = field(default_factory=dict)  # drop -> rows it will state
    stated: list[tuple[int, Rows]] = field(default_factory=list)  # (drop, rows), for aggregates

    def write(self) -> None:
        """Append this chunk's rows to the files of all drops."""
        bounds, before = self.plan.bounds(), PERIODS_BEFORE - 1
        people = Population(
            self.users, self.plan.drops(), self.plan.sessions, self.plan.seed, self.number
        )
        made: list[Rows] = []
        for period, (start, end) in enumerate(itertools.pairwise(bounds)):
            people.live(period, start, end)
            made += people.support_and_payments()
            if period > before - USAGE_PERIODS_BEFORE:
                made.append(people.usage())
            if period < before:
                continue
            drop = period - before
            listed = people.listed(end)
            leaves = people.decide_who_leaves(listed)
            stays = listed & ~leaves
            state = people.state(end, listed, leaves)
            for rows in made:
                self._schedule(drop, rows, stays, people.rng)
            made = []
            self._deliver(drop, end, stays, people)
            if self.plan.grain != "events":
                known = [rows for _, rows in self.stated]
                state |= delivered_aggregates(known, people.names, listed, end)
            for name, table in state.items():
                self._append(drop, name, table)

    def _schedule(self, drop: int, rows: Rows, stays: np.ndarray, rng: np.random.Generator) -> None:
        """Decide which drops state which of the rows that happened before `drop`.

        Only users who stay are spoken of again: a drop never needs an older one to be understood,
        so the drops may be loaded in any order.
        """
        again = stays[rows.user] & (drop + 1 < self.plan.months)
        luck = rng.random(len(rows))
        late = again & (luck < LATE)
        wrong = again & (luck >= LATE) & (luck < LATE + CORRECTED)
        repeated = again & (luck >= 0.5) & (luck < 0.5 + REPEATED)
        self._state(drop, rows.where(~late).with_mistakes(wrong[~late]))
        self._state(drop + 1, rows.where(late | wrong | repeated))

    def _state(self, drop: int, rows: Rows) -> None:
        if len(rows):
            self.waiting.setdefault(drop, []).append(rows)

    def _deliver(self, drop: int, day: date, stays: np.ndarray, people: Population) -> None:
        """Write the event files of one drop."""
        for table in ("usage", "payments", "support"):
            parts = [rows for rows in self.waiting.get(drop, []) if rows.table == table]
            if not parts:
                continue
            rows = concat(parts)
            if table == "support":
                rows = self._resolved_later(drop, day, rows, stays)
            if self.plan.grain != "events":
                self.stated.append((drop, rows))
            twice = people.rng.random(len(rows)) < TWICE
            rows = concat([rows, rows.where(twice)])
            rows = rows.where(np.argsort(rows.time, kind="stable"))
            if self.plan.grain != "aggregates":
                self._append(drop, table, rows.to_arrow(people.names, self.number))
        self.waiting.pop(drop, None)
        # What was stated four drops ago lies before every window.
        self.stated = [(when, rows) for when, rows in self.stated if when > drop - 4]

    def _resolved_later(self, drop: int, day: date, rows: Rows, stays: np.ndarray) -> Rows:
        """Hide resolutions that lie after the drop; the drop that knows them states them again."""
        unknown = rows.values["resolved_at"] >= DAY * (day - date(1970, 1, 1)).days
        if drop + 1 < self.plan.months:
            self._state(drop + 1, rows.where(unknown & stays[rows.user]))
        return rows.hide("resolved_at", unknown)

    def _append(self, drop: int, table: str, rows: pa.Table) -> None:
        with (self.folders[drop] / f"{table}.csv").open("ab") as file:
            options = pacsv.WriteOptions(include_header=False, quoting_style="none")
            pacsv.write_csv(rows, file, options)
