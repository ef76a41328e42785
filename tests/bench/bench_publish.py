"""Publishing online, against stock Feast 0.67 and against the same INSERT ... SELECT by hand.

All three on one server and the same published tables, alternating; medians of the rounds. The
tables are synthetic, with the columns of the project's feature views. Last line: one JSON object.

A full publish is the monthly one: the next as_of of every user replaces what is online. The
first fill of empty tables is faster, for all three; it is under `detail`.

    entities_per_s         users x views / seconds of a full `materialize_incremental`
    stock_entities_per_s   the same for stock Feast into its own Postgres online store
    ratio_vs_stock         wanted: at least 30
    ratio_vs_floor         seconds / seconds of the plain SQL; wanted: at most 0.8
    delta_share            after 0.1 % changed, of a full publish; wanted: at most 0.02
    audit_share            the audit, of a full publish; wanted: at most 0.10
    big_entities_per_s     a full publish of --big-users x views
    big_ratio              big_entities_per_s / entities_per_s; wanted: at least 0.7
    peak_rss_mb            of the process that does; wanted: below 300
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.published import (  # noqa: E402
    END,
    UTC,
    VIEWS,
    change,
    checkpoint,
    floor_tables,
    make_tables,
    newest,
    ours,
    peak_rss,
    quiet,
    say,
    server,
    stock,
    timed,
)

END_OF_FIRST = datetime(2024, 1, 15, tzinfo=UTC)  # months begin at 2024-01-01


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--views", type=int, default=5, choices=range(1, 6))
    parser.add_argument("--months", type=int, default=12, help="at least 2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stock-rounds", type=int, default=3, help="0 leaves stock Feast out")
    parser.add_argument("--big-users", type=int, default=2_000_000, help="0 leaves this out")
    parser.add_argument("--publish-once", metavar="END", help=argparse.SUPPRESS)
    return parser.parse_args()


def floor(views: dict, end: datetime) -> None:
    """In one transaction: write the newest as_of up to `end`, delete who is not in it."""
    from data.database import Database

    with Database().connect() as connection:
        for name, columns in views.items():
            listed = ", ".join([*columns, "as_of", "known_at"])
            excluded = ", ".join(f"excluded.{column}" for column in [*columns, "as_of", "known_at"])
            connection.execute(
                f"insert into floor.{name} (user_id, {listed}, published_at)"
                f" select user_id, {listed}, now() from ({newest(name, end)}) as newest"
                f" where not is_retracted on conflict (user_id) do update"
                f" set ({listed}, published_at) = row({excluded}, excluded.published_at)"
            )
            connection.execute(
                f"delete from floor.{name} where as_of <"
                f" (select max(as_of) from features.{name} where as_of <= %s)",
                [end],
            )


def empty(views: dict, schema: str) -> None:
    """Empty online tables, as before the first run."""
    from data.database import Database

    with Database().connect() as connection:
        for name in views:
            connection.execute(f"truncate {schema}.{name}")
        if schema == "online":
            connection.execute("truncate ledger.materializations")
    checkpoint()


def big_run(views: dict, users: int, count: int) -> tuple[float, float]:
    """Entities a second and peak resident megabytes of a process that publishes a newer as_of of
    `users` of each view over the one before."""
    make_tables("big", views, users, 2)
    quiet(ours)
    command = [sys.executable, __file__, "--views", str(count), "--publish-once"]
    for end in (END_OF_FIRST, END):
        checkpoint()
        output = subprocess.run(
            [*command, end.isoformat()], check=True, capture_output=True, text=True
        ).stdout
        seconds, rss = json.loads(output.splitlines()[-1])
        say(f"{users:,} users: {users * count / seconds:,.0f} entities/s, peak {rss:.0f} MB")
    return users * count / seconds, rss


def publish_once(end: datetime) -> None:
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(ROOT / "feature_repo"))
    seconds = timed(lambda: store.materialize_incremental(end))
    print(json.dumps([seconds, peak_rss()]))


def measure(asked: argparse.Namespace, views: dict, folder: Path) -> dict[str, list[float]]:
    from streamflow_feast.materialize.audit import audit

    store = quiet(ours)
    floor_tables(views)
    other = quiet(lambda: stock(folder)) if asked.stock_rounds else None
    took: dict[str, list[float]] = {}

    def note(what: str, work: Callable[[], object]) -> None:
        took.setdefault(what, []).append(timed(work))
        say(f"{what}: {took[what][-1]:.3f} s")

    last = datetime(2024 + (asked.months - 1) // 12, (asked.months - 1) % 12 + 1, 1, tzinfo=UTC)
    before = last - timedelta(days=1)
    for number in range(max(asked.rounds, asked.stock_rounds)):
        if number < asked.rounds:
            empty(views, "online")
            note("first fill", lambda: store.materialize_incremental(before))
            checkpoint()
            note("full", lambda: store.materialize_incremental(END))
            note("audit", audit)
            change(views)
            note("delta", lambda: store.materialize_incremental(END))
            audit()
            empty(views, "floor")
            note("floor first fill", lambda: floor(views, before))
            checkpoint()
            note("floor", lambda: floor(views, END))
        if number < asked.stock_rounds:
            if number == 0:
                note("stock first fill", lambda: other.materialize(before, END))
            checkpoint()  # stock Feast replaces rows by rows of the same or an older month, too
            note("stock", lambda: other.materialize(before, END))
    return took


def main() -> None:
    asked = arguments()
    if asked.publish_once:
        publish_once(datetime.fromisoformat(asked.publish_once))
        return
    views = dict(list(VIEWS.items())[: asked.views])
    folder = Path(tempfile.mkdtemp(prefix="streamflow-bench-"))
    folder.chmod(0o755)
    big, rss = None, None
    try:
        with server(folder):
            make_tables("bench", views, asked.users, asked.months)
            took = measure(asked, views, folder)
            if asked.big_users:
                big, rss = big_run(views, asked.big_users, asked.views)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    middle = {what: statistics.median(seconds) for what, seconds in took.items()}
    entities = asked.users * asked.views
    result = {
        "entities_per_s": round(entities / middle["full"]),
        "stock_entities_per_s": round(entities / middle["stock"]) if "stock" in middle else None,
        "ratio_vs_stock": round(middle["stock"] / middle["full"], 1) if "stock" in middle else None,
        "ratio_vs_floor": round(middle["full"] / middle["floor"], 2),
        "delta_share": round(middle["delta"] / middle["full"], 4),
        "audit_share": round(middle["audit"] / middle["full"], 4),
        "big_entities_per_s": None if big is None else round(big),
        "big_ratio": None if big is None else round(big / (entities / middle["full"]), 2),
        "peak_rss_mb": None if rss is None else round(rss),
        "detail": {
            **{key: getattr(asked, key) for key in ("users", "views", "months", "big_users")},
            "seconds": {what: [round(s, 3) for s in values] for what, values in took.items()},
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
