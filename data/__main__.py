"""The command line of the raw data: `python -m data <command>`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import psycopg

from data.contract import markdown
from data.database import Database
from data.server import EmbeddedServer, ServerError
from data.setup import set_up

LOCAL = {"127.0.0.1", "localhost", "::1"}


def up(settings: Database) -> str:
    """Have a server, the database and its schemas; the message says which server it is.

    A server that already answers to our credentials is used as it is (a container, say); an
    address on another machine is never started, only set up.
    """
    address = f"{settings.host}:{settings.port}/{settings.database}"
    server = EmbeddedServer(settings)
    if settings.host not in LOCAL:
        message = f"Postgres at {address} (not started by us)"
    else:
        message = f"Postgres at {address}"
        try:
            server.create_database()
        except psycopg.OperationalError:
            server.start()
            server.create_database()
            message += f" (embedded; data and log in {server.home})"
    set_up(settings)
    return message


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status (1: refused, with the reason on stderr)."""
    parser = argparse.ArgumentParser(prog="python -m data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("up", help="start Postgres unless it runs, and set the database up")
    commands.add_parser("down", help="stop the Postgres that `up` started")
    commands.add_parser("setup", help="create schemas and tables in a running Postgres")
    commands.add_parser("contract", help="print the drop contract as markdown")
    options = parser.parse_args(arguments)
    settings = Database()
    try:
        if options.command == "up":
            print(up(settings))
        elif options.command == "down":
            stopped = EmbeddedServer(settings).stop()
            print("Postgres stopped" if stopped else "Postgres was not running")
        elif options.command == "setup":
            set_up(settings)
            print(f"{settings.database} is set up")
        elif options.command == "contract":
            print(markdown())
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    except psycopg.OperationalError as error:
        print(f"{error}\nIs the server up? `make up` starts it.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
