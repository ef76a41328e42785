"""`python -m streamflow_feast audit [--redis] [VIEW ...]`: the audit as a command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from data.errors import command
from streamflow_feast.materialize.audit import audit


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line a view; 1 when online does not equal offline."""
    parser = argparse.ArgumentParser(prog="python -m streamflow_feast")
    commands = parser.add_subparsers(dest="command", required=True)
    compare = commands.add_parser("audit", help="compare every online value with offline")
    compare.add_argument("views", nargs="*", metavar="VIEW", help="default: all")
    compare.add_argument(
        "--redis", action="store_true", help="what feature_store.redis.yaml serves"
    )
    asked = parser.parse_args(arguments)
    if asked.redis:
        from streamflow_feast.redis.audit import audit_redis

        results = audit_redis(views=asked.views or None)
    else:
        results = audit(views=asked.views or None)
    for result in results:
        pushed = f", {result.pushed:,} pushed since" if result.pushed else ""
        print(f"  {result.view:<24} {result.compared:,} rows equal{pushed}, {result.seconds:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
