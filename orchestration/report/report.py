"""A month as one HTML page: freshness, rows and nulls, dbt's tests, audit, drift. Opens offline.

`make report AS_OF=2024-02-29` writes `data/processed/report_2024-02-29.html`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import psycopg

from data.database import Database
from data.errors import command
from data.paths import PROCESSED
from orchestration import steps
from orchestration.report.month import Month, ReportError, read_month
from orchestration.report.page import page
from streamflow_feast.dbt.manifest import ManifestError


def report(as_of: date, folder: Path = PROCESSED) -> tuple[Path, Month]:
    """Write the page of a month; where it is, and what it shows."""
    again = f"make report AS_OF={as_of}"
    with steps.told_as("report", again), Database().connect() as connection:
        try:
            month = read_month(connection, as_of)
        except (ReportError, ManifestError, psycopg.errors.UndefinedTable) as error:
            raise steps.StepError("report", str(error), "make build materialize report") from error
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"report_{as_of}.html"
    file.write_text(page(month), encoding="utf-8")
    return file, month


def summary(month: Month) -> str:
    """The page in a few lines, for a terminal."""
    lines = [f"  {sum(month.rows.values()):,} rows in {len(month.rows)} feature tables"]
    if month.before is None:
        return "\n".join([*lines, "  no earlier month to compare with"])
    moved = [d for d in month.drift if d.moved]
    lines.append(
        f"  {len(moved)} of {len(month.drift)} features moved since {month.before:%Y-%m-%d}:"
    )
    lines += [
        f"    {d.feature:<24} {100 * d.distance:5.1f} % of users apart, p {d.p_value:.1e}, "
        f"PSI {d.psi:.3f} ({d.psi_band})"
        for d in sorted(moved, key=lambda d: -d.distance)
    ]
    return "\n".join(lines)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 when there is nothing to report on."""
    parser = argparse.ArgumentParser(prog="python -m orchestration report", description=__doc__)
    parser.add_argument("--as-of", required=True, type=date.fromisoformat, help="2024-02-29")
    parser.add_argument("--out", type=Path, default=PROCESSED, help="folder (data/processed)")
    options = parser.parse_args(arguments)
    file, month = report(options.as_of, options.out)
    steps.say(f"{summary(month)}\n  {file}")
    return 0
