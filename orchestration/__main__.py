"""The steps as commands: `python -m orchestration <step>`. The Makefile is their menu."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from data.errors import command, show
from orchestration import steps
from orchestration.steps import StepError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m orchestration", description=__doc__)
    commands = top.add_subparsers(dest="step", required=True, metavar="step")
    commands.add_parser("demo", help="the whole path once, on sample drops")
    commands.add_parser("down", help="stop what the demo and `make up` started")
    step = commands.add_parser("ingest", help="check and load a drop")
    step.add_argument("folder")
    step.add_argument("--quarantine", action="store_true", help="leave rows with an error out")
    for name, text in (
        ("build", "dbt build, which publishes when all tests pass"),
        ("plan", "what build would do now; writes nothing"),
    ):
        step = commands.add_parser(name, help=text)
        step.add_argument("--recompute", action="store_true", help="every pair")
        step.add_argument("--cadence", choices=["drops", "month", "week", "day", "hour"])
        step.add_argument("--allow-leaving", type=int, metavar="N", help="let N users leave")
    commands.add_parser("docs", help="dbt's documentation as one page")
    commands.add_parser("apply", help="feast apply")
    step = commands.add_parser(
        "materialize", aliases=["publish"], help="feast materialize-incremental"
    )
    step.add_argument("--end-date", type=instant, help="as_of up to here; default now")
    step.add_argument("--full", action="store_true", help="compare every row that is online")
    commands.add_parser("audit", help="online equals offline, or an error")
    step = commands.add_parser("vector", help="one user's online features, through Feast")
    step.add_argument("user_id")
    step.add_argument("--service", default="all_features")
    step = commands.add_parser("pipeline", help="all steps in order")
    step.add_argument("--drop", action="append", default=[], help="a drop to load first")
    step.add_argument("--drops", type=Path, help="load every drop in this folder first")
    step.add_argument("--as-of", action="append", default=[], help="write this training set")
    for name, text in PASSED_ON.items():
        commands.add_parser(name, help=text, add_help=False)
    return top


# Commands with a module and a command line of their own.
PASSED_ON = {
    "training-set": "features and labels of a snapshot, as CSV and parquet",
    "leak-check": "do the models look into the future?",
    "report": "freshness, tests and drift of a month as one HTML page",
    "backup": "the whole database in one file",
    "restore": "a database that holds nothing yet, from such a file",
    "prune": "let go of versions and rows that nobody can ask for any more",
    "erase": "take a user, or another entity, out of everything that is kept",
    "catalogue": "what the API's catalogue shows of each feature: lineage, statistics, tests",
    "lineage": "from raw columns to features, services and answers, as a file",
    "skew": "was what was served what was published? replays the logged answers",
    "dagster": "Dagster's UI and daemon on this machine",
    "backfill": "a range of months, one after the other",
}


def instant(text: str) -> datetime:
    """An ISO 8601 instant; without an offset it is UTC."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step; 1 when it failed, with one line on stderr that says what to do."""
    options, rest = parser().parse_known_args(arguments)
    if rest and options.step not in PASSED_ON:
        parser().error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return run(options, rest) or 0
    except StepError as error:
        from data.load.check import DropError

        # One line is for logs; a person gets every error of the drop.
        show(error, error.__cause__ if isinstance(error.__cause__, DropError) else error)
    return 1


def run(options: argparse.Namespace, rest: list[str]) -> int | None:
    """Call the step. Imports wait until they are needed: dbt and Feast take seconds each."""
    if options.step == "demo":
        from orchestration.local.demo import demo

        demo()
    elif options.step == "down":
        from orchestration.local.demo import down

        down()
    elif options.step == "ingest":
        steps.ingest(options.folder, quarantine=options.quarantine)
    elif options.step in ("build", "plan"):
        chosen = {
            "recompute": options.recompute or None,
            "cadence": options.cadence,
            "allow_leaving": options.allow_leaving,
        }
        variables = {name: value for name, value in chosen.items() if value is not None}
        (steps.build if options.step == "build" else steps.plan)(**variables)
    elif options.step == "docs":
        steps.docs()
    elif options.step == "apply":
        steps.apply()
    elif options.step in ("materialize", "publish"):
        if options.step == "publish":  # until the release after 0.2
            print("publish is called materialize now; the old name goes", file=sys.stderr)
        steps.materialize(options.end_date, full=options.full)
    elif options.step == "audit":
        steps.audit()
    elif options.step == "vector":
        print(json.dumps(steps.vector(options.user_id, options.service), indent=2))
    elif options.step == "pipeline":
        if options.drops:
            steps.pipeline_over(options.drops, options.as_of)
        else:
            steps.pipeline(options.drop, options.as_of)
        from orchestration.catalogue.command import refresh

        refresh()
    elif options.step == "training-set":
        from orchestration.training_set import main as training_set

        return training_set(rest)
    elif options.step == "leak-check":
        from orchestration.leak_check.check import main as leak_check

        return leak_check(rest)
    elif options.step == "report":
        from orchestration.report.report import main as report

        return report(rest)
    elif options.step in ("backup", "restore"):
        from orchestration.upkeep.backup import main as backup

        return backup([options.step, *rest])
    elif options.step == "prune":
        from orchestration.upkeep.prune import main as prune

        return prune(rest)
    elif options.step == "erase":
        from orchestration.upkeep.erase import main as erase

        return erase(rest)
    elif options.step == "catalogue":
        from orchestration.catalogue.command import main as catalogue

        return catalogue(rest)
    elif options.step == "lineage":
        from orchestration.lineage.command import main as lineage

        return lineage(rest)
    elif options.step == "skew":
        from orchestration.skew.command import main as skew

        return skew(rest)
    elif options.step == "dagster":
        from orchestration.defs.dagster_ui import main as dagster_ui

        return dagster_ui(rest)
    elif options.step == "backfill":
        from orchestration.backfill import main as backfill

        return backfill(rest)
    return None


if __name__ == "__main__":
    sys.exit(main())
