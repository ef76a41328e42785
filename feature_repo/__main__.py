"""`python -m feature_repo audit [--redis] [VIEW ...]`: the audit as a command."""

from __future__ import annotations

import argparse
import sys

from feature_repo.audit import AuditError, audit
from feature_repo.connections import DatabaseUnreachable


def main(arguments: list[str] | None = None) -> int:
    """Print a line a view; 1 when online does not equal offline."""
    parser = argparse.ArgumentParser(prog="python -m feature_repo")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("audit", help="compare every online value with offline")
    command.add_argument("views", nargs="*", metavar="VIEW", help="default: all")
    command.add_argument(
        "--redis", action="store_true", help="what feature_store.redis.yaml serves"
    )
    asked = parser.parse_args(arguments)
    try:
        if asked.redis:
            from feature_repo.audit_redis import audit_redis

            results = audit_redis(views=asked.views or None)
        else:
            results = audit(views=asked.views or None)
    except (AuditError, DatabaseUnreachable) as failed:
        print(failed, file=sys.stderr)
        return 1
    for result in results:
        ahead = f", {result.ahead:,} pushed ahead of it" if result.ahead else ""
        print(f"  {result.view:<24} {result.compared:,} users equal{ahead}, {result.seconds:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
