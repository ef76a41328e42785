"""The command line of the raw data: `python -m data <command>`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import psycopg

from data.contract import dbt_docs, declared, markdown
from data.database import Database, is_loopback, no_connection
from data.errors import command
from data.load.check import DropError
from data.load.load import check
from data.load.stamp import stamp
from data.paths import PROCESSED
from data.postgres.server import EmbeddedServer
from data.postgres.setup import set_up
from data.sample.generate import GRAINS, Plan, generate
from data.target import load, target

QUARANTINE = PROCESSED / "refused"


def prepare(settings: Database) -> None:
    """Have the database (on this machine; elsewhere it must exist) with schemas and tables."""
    if is_loopback(settings.host):
        EmbeddedServer(settings).create_database()
    set_up(settings)


def up(settings: Database) -> str:
    """Have a server, the database and its schemas; the message says which server it is.

    A server that already answers to our credentials is used as it is (a container, say); an
    address on another machine is never started, only set up.
    """
    message = f"Postgres at {settings.host}:{settings.port}/{settings.database}"
    try:
        prepare(settings)
        if is_loopback(settings.host) and EmbeddedServer(settings).postmaster() is None:
            message += " (found there: not the one of this folder)"
    except psycopg.OperationalError as error:
        why = no_connection(error, settings).kind
        if not is_loopback(settings.host) or why in ("login", "database", "ssl", "access", "busy"):
            raise  # a Postgres is there
        server = EmbeddedServer(settings)
        server.start()
        prepare(settings)
        message += f" (embedded; data and log in {server.home})"
    return message


def _instant(text: str) -> datetime:
    """A date or an instant; UTC where it has no offset."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _add_generate(command: argparse.ArgumentParser) -> None:
    default = Plan()
    command.add_argument("--users", type=int, default=default.users, help="in the first drop")
    command.add_argument("--months", type=int, default=default.months, help="number of drops")
    command.add_argument("--seed", type=int, default=default.seed)
    command.add_argument("--grain", choices=GRAINS, default=default.grain)
    command.add_argument(
        "--sessions", type=float, default=default.sessions, help="a user and month, on average"
    )
    command.add_argument(
        "--out", "--to", type=Path, default=Path("data/drops"), help="folder to write the drops to"
    )
    command.formatter_class = argparse.ArgumentDefaultsHelpFormatter


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status (1: refused, with the reason on stderr)."""
    parser = argparse.ArgumentParser(prog="python -m data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("up", help="start Postgres unless it runs, and set the database up")
    commands.add_parser("down", help="stop the Postgres that `up` started")
    commands.add_parser("setup", help="create schemas and tables in a running Postgres")
    contract = commands.add_parser("contract", help="print the drop contract as markdown")
    contract.add_argument("--dbt", action="store_true", help="its meanings as dbt's doc blocks")
    for name, meaning in (("check", "say what `load` would do"), ("load", "load drops")):
        drops = commands.add_parser(name, help=f"{meaning}; each folder is one drop")
        drops.add_argument("folder", nargs="+", type=Path, help="a folder named YYYY-MM-DD")
        drops.add_argument(
            "--quarantine",
            nargs="?",
            type=Path,
            const=QUARANTINE,
            help="leave rows with an error out, and write them with the reasons to this folder",
        )
    stamp_rows = commands.add_parser(
        "stamp", help="make a load of rows that another loader put into a raw table"
    )
    stamp_rows.add_argument("table", nargs="+", help="a raw table, such as those of `contract`")
    stamp_rows.add_argument(
        "--as-of",
        type=_instant,
        help="of rows without one: a date, or an instant (default: the last midnight UTC)",
    )
    stamp_rows.add_argument(
        "--lacks",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="columns of which the other loader knows nothing: no value there means unknown",
    )
    _add_generate(commands.add_parser("generate", help="write drops of an invented service"))
    options = parser.parse_args(arguments)
    settings = Database()
    if options.command == "up":
        print(up(settings))
    elif options.command == "down":
        stopped = EmbeddedServer(settings).stop()
        print("Postgres stopped" if stopped else "Postgres was not running")
    elif options.command == "setup":
        prepare(settings)
        print(f"{settings.database} is set up")
    elif options.command == "contract":
        text = dbt_docs if options.dbt else markdown
        print(text(declared()), end="\n" * (not options.dbt))
    elif options.command == "generate":
        fields = {name: getattr(options, name) for name in Plan.__dataclass_fields__}
        folders = generate(options.out, Plan(**fields))
        print(f"{len(folders)} drops in {options.out}: {folders[0].name} to {folders[-1].name}")
    elif options.command == "stamp":
        for table in options.table:
            loads = stamp(table, settings, as_of=options.as_of, lacks=options.lacks)
            print("\n".join(map(str, loads)) or f"no rows of {table} wait for a stamp")
    elif options.command == "load":
        for folder in options.folder:
            print(load(folder, settings, quarantine=options.quarantine))
    elif options.command == "check":
        if target() == "spark":
            raise SystemExit("check asks the raw tables of Postgres; on the lake: load")
        wrong = False
        for found in check(options.folder, settings, quarantine=options.quarantine is not None):
            wrong |= isinstance(found, DropError)
            print(found, file=sys.stderr if isinstance(found, DropError) else sys.stdout)
        return int(wrong)
    return 0


if __name__ == "__main__":
    sys.exit(main())
