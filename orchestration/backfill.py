"""A range of months in this process, one after the other: no daemon and no UI needed.

`python -m orchestration backfill 2024-01..2024-06`. A month that fails is named and the next one
is tried: a refused drop holds nobody up. A drop that was loaded and then failed a dbt test holds
up every later month, since a build tests all rows; those months are loaded, and are published by
the first build after the correction.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from data.errors import command
from orchestration import steps


class MonthError(ValueError):
    """No month that there is a partition of."""


def backfill(months: Sequence[str]) -> dict[str, str]:
    """Run `ingest_month` for each; month -> why it failed."""
    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
    import dagster as dg

    from orchestration.defs.definitions import defs

    job = defs.resolve_job_def("ingest_month")
    failed = {}
    with (
        dg.DagsterInstance.get()
        if os.environ.get("DAGSTER_HOME")
        else (dg.DagsterInstance.ephemeral()) as instance
    ):
        for month in months:
            done = job.execute_in_process(
                partition_key=month, instance=instance, raise_on_error=False
            )
            if not done.success:
                failed[month] = reason(done)
            steps.say(f"{month}: {failed.get(month, 'online')}")
    return failed


def reason(done: object) -> str:
    """The line of the first step that failed."""
    for event in done.all_events:  # type: ignore[attr-defined]
        if event.is_step_failure:
            data = event.step_failure_data
            failure = data.user_failure_data
            if failure and failure.description:
                return str(failure.description)
            error = data.error
            while error is not None and error.cause is not None:
                error = error.cause
            return f"{event.step_key}: {' '.join(str(error.message if error else '').split())}"
    return "failed before its first step"


def months_of(text: str) -> list[str]:
    """2024-01..2024-03 or 2024-01,2024-03 as a list.

    Raises:
        MonthError: a month is not one of the partitions.
    """
    from orchestration.defs.assets import MONTHS

    known = list(MONTHS.get_partition_keys())
    first, dots, last = text.partition("..")
    wanted = [first, last] if dots else text.split(",")
    if strange := [month for month in wanted if month not in known]:
        raise MonthError(f"{strange[0]!r} is not one of the months {known[0]} to {known[-1]}")
    return known[known.index(first) : known.index(last) + 1] if dots else wanted


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 when a month failed."""
    parser = argparse.ArgumentParser(prog="python -m orchestration backfill", description=__doc__)
    parser.add_argument("months", help="2024-01..2024-06 or 2024-01,2024-03")
    options = parser.parse_args(arguments)
    return 1 if backfill(months_of(options.months)) else 0
