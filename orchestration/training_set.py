"""`make training-set`: the command line of streamflow_feast.training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from data.errors import command
from data.paths import PROCESSED
from orchestration import steps
from streamflow_feast.training.training_set import __doc__ as about


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 when the set cannot be made, with one line that says why."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestration training-set",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rows = parser.add_mutually_exclusive_group(required=True)
    rows.add_argument("--as-of", help="2024-01-31[,2024-02-29] or 2024-01-31..2024-06-30")
    rows.add_argument("--labels", help="instants of your own: a .csv, a .parquet, or a SELECT")
    parser.add_argument("--known-at", help="as published by this instant; default: all of it")
    parser.add_argument("--service", default="churn_v1", help="feature service (churn_v1)")
    parser.add_argument("--keep-unlabelled", action="store_true", help="users without a label too")
    parser.add_argument("--out", type=Path, default=PROCESSED, help="folder (data/processed)")
    parser.add_argument("--name", default="training_df", help="file name without ending")
    options = vars(parser.parse_args(arguments))
    as_of = options.pop("as_of")
    print(steps.training_set([as_of] if as_of else [], **options))
    return 0
