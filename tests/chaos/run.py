"""`make chaos`: kill, fill, repeat and disturb everything, and see whether anybody lost anything.

Loads, builds, materializations and the API run as processes of their own and are killed at random
moments, as are the database and its connections; drops come in random order, twice, and broken;
the disk is full for a while, and the clock jumps. After each disturbance what must always hold is
looked at; at the end the ordinary commands are typed once, and what people have must equal what
an undisturbed run of the same drops gave. Nothing is repaired by hand. The last line is one JSON
object; the exit status is 1 where anything differs.

What is random follows from --seed; when a process is hit depends on the machine as well.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.database import Database
from data.postgres.server import EmbeddedServer
from orchestration import steps
from tests.chaos import api, faults
from tests.chaos.world import (
    Child,
    World,
    a_world,
    bad_drop,
    broken,
    fresh_database,
    state,
)


def quiet(line: str) -> None:
    """Where the lines of a step go."""


def settle() -> None:
    """What a person would type after all that, once."""
    steps.build(show=quiet)
    steps.apply()
    steps.materialize()
    steps.audit()


class Chaos:
    """One run: what is done to a world, and what came of it."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world, self.chance = world, chance
        self.counts: Counter[str] = Counter()
        self.differences: list[str] = []
        self.corrected = False

    # What is done -----------------------------------------------------------------------------

    def some_step(self) -> tuple[str, Callable[[], object]]:
        """A step of the ordinary work."""
        name = self.chance.choices(
            ["load", "build", "materialize", "apply", "audit"], [4, 4, 4, 1, 1]
        )[0]
        drop = self.chance.choice([*self.world.drops, self.world.corrected])
        return name, {
            "load": partial(steps.ingest, drop, show=quiet),
            "build": partial(steps.build, show=quiet),
            "materialize": steps.materialize,
            "apply": steps.apply,
            "audit": steps.audit,
        }[name]  # fmt: skip

    def run(self, *children: Child) -> None:
        """Wait for them; a hang is a difference."""
        for child in children:
            if child.wait() is None:
                self.differences.append(f"a step hung for {time.monotonic() - child.began:.0f} s")
                child.kill()

    def plain(self) -> None:
        name, step = self.some_step()
        self.run(self.world.step(step))
        self.counts[f"{name} in peace"] += 1

    def kill(self) -> None:
        name, step = self.some_step()
        if name == "materialize":
            self.news()
        child = self.world.step(step)
        # Most of a build is its models; a load is over in a moment.
        longest = {"load": 0.5, "build": 9.0, "materialize": 1.5, "apply": 2.0, "audit": 1.0}[name]
        if child.wait(self.chance.random() * longest) is None:
            child.kill()
            self.counts[f"kills of {name}"] += 1

    def news(self) -> None:
        """A publication with other values: the first drop as it was not delivered last."""
        self.corrected = not self.corrected
        drop = self.world.corrected if self.corrected else self.world.drops[0]

        def both() -> None:
            steps.ingest(drop, show=quiet)
            steps.build(show=quiet)

        self.run(self.world.step(both))

    def two_at_once(self) -> None:
        children = [self.world.step(self.some_step()[1]) for _ in range(self.chance.choice([2, 3]))]
        time.sleep(self.chance.random() * 2)
        if self.chance.random() < 0.5:
            children.pop().kill()
            self.counts["kills beside others"] += 1
        self.run(*children)
        self.counts["at once"] += 1

    def beside(self, disturb: Callable[[], None]) -> None:
        """Disturb the database while a step runs; what the step says of it is its own."""
        child = self.world.step(self.some_step()[1])
        child_is_done = child.wait(self.chance.random() * 3) is not None
        disturb()
        if not child_is_done:
            self.run(child)

    def kill_postmaster(self) -> None:
        def disturb() -> None:
            os.kill(self.world.postmaster(), 9)
            self.world.start()

        self.beside(disturb)
        self.counts["kills of the postmaster"] += 1

    def restart(self) -> None:
        def disturb() -> None:
            EmbeddedServer().stop(self.chance.choice(["fast", "immediate"]))
            self.world.start()

        self.beside(disturb)
        self.counts["restarts of Postgres"] += 1

    def end_sessions(self) -> None:
        def disturb() -> None:
            with psycopg.connect(Database().conninfo(), autocommit=True) as connection:
                connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where datname = current_database() and pid <> pg_backend_pid()"
                )

        self.beside(disturb)
        self.counts["sessions ended"] += 1

    def exhaust(self) -> None:
        def disturb() -> None:
            held = []
            try:
                for _ in range(250):
                    held.append(psycopg.connect(Database().conninfo()))
            except psycopg.OperationalError:
                time.sleep(1.5)
            finally:
                for connection in held:
                    connection.close()

        self.beside(disturb)
        self.counts["connections exhausted"] += 1

    def fill_disk(self) -> None:
        if self.world.tmpfs is None:
            return
        ballast = self.world.tmpfs / "ballast"

        def disturb() -> None:
            room = os.statvfs(self.world.tmpfs)  # type: ignore[arg-type]
            free = room.f_bavail * room.f_frsize
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, free - self.chance.randrange(1 << 16)))

        try:
            disturb()
            self.run(self.world.step(self.some_step()[1]))
        finally:
            ballast.unlink(missing_ok=True)
        self.world.start()  # a log that could not be written may have ended it
        self.counts["full disks"] += 1

    def jump(self) -> None:
        """The server's clock, forth and back, with a step in each time."""
        if self.world.faketime is None:
            return
        EmbeddedServer().stop("fast")
        self.world.start(self.chance.choice(["+40d", "-40d", "+2h", "-2h"]))
        self.run(self.world.step(self.some_step()[1]))
        EmbeddedServer().stop("fast")
        self.world.start()
        self.run(self.world.step(self.some_step()[1]))
        self.counts["clock jumps"] += 1

    def deliver_badly(self) -> None:
        bad, what = bad_drop(
            self.chance.choice(self.world.drops), self.world.folder / "bad", self.chance
        )
        before = self.raw()
        child = self.world.step(partial(steps.ingest, bad, show=quiet))
        if child.wait() == 0:
            self.differences.append(f"taken, though it had {what}")
        elif self.raw() != before:
            self.differences.append(f"changed something, though refused for {what}")
        self.counts["bad inputs"] += 1

    def raw(self) -> Any:
        with psycopg.connect(Database().conninfo()) as connection:
            return connection.execute("select count(*), max(load_id) from raw.loads").fetchone()

    def ask(self) -> None:
        """The API while one of its workers is killed."""
        found = api.kill_a_worker(self.chance)
        self.differences += found
        self.counts["kills of API workers"] += 1

    # How it goes ------------------------------------------------------------------------------

    def go(self, seconds: float, only: Sequence[str]) -> None:
        acts = {
            "plain": (self.plain, 3), "kill": (self.kill, 8), "two_at_once": (self.two_at_once, 3),
            "kill_postmaster": (self.kill_postmaster, 2), "restart": (self.restart, 1),
            "end_sessions": (self.end_sessions, 2), "exhaust": (self.exhaust, 1),
            "fill_disk": (self.fill_disk, 1), "jump": (self.jump, 1),
            "deliver_badly": (self.deliver_badly, 2), "ask": (self.ask, 1),
        }  # fmt: skip
        chosen = {name: act for name, act in acts.items() if not only or name in only}
        end = time.monotonic() + seconds
        each = list(chosen)  # every one of them once, then as it comes
        self.chance.shuffle(each)
        while time.monotonic() < end and not self.differences:
            name = each.pop() if each else self.chance.choices(
                list(chosen), [weight for _, weight in chosen.values()]
            )[0]  # fmt: skip
            chosen[name][0]()
            self.counts["acts"] += 1
            self.look(name)

    def look(self, after: str) -> None:
        found = asked(self.world, broken)
        if found is None:
            self.differences.append(f"after {after}: what must hold could not be looked at")
        self.differences += [f"after {after}: {what}" for what in found or ()]


def asked(world: World, question: Callable[[], Any]) -> Any:
    """What a fork answers, as JSON through a file: this process opens no pool and no thread."""
    with tempfile.NamedTemporaryFile(dir=world.folder, suffix=".json") as file:

        def answer() -> None:
            Path(file.name).write_text(json.dumps(question()))

        child = world.step(answer)
        if child.wait() != 0:
            child.kill()
            return None
        return json.loads(Path(file.name).read_text())


def everything(world: World, drops: Sequence[Path]) -> Any:
    """Load these in this order, settle; what people have then."""

    def answer() -> dict[str, str]:
        for drop in drops:
            steps.ingest(drop, show=quiet)
        settle()
        return state(world.folder / "answers")

    return asked(world, answer)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.run", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=600, help="of disturbing (600)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument("--months", type=int, default=3)
    parser.add_argument("--only", action="append", default=[], help="this act alone: kill, ...")
    parser.add_argument("--plant", choices=sorted(faults.PLANTS), help="a fault, to be found")
    options = parser.parse_args(arguments)
    chance, began = random.Random(options.seed), time.monotonic()
    faults.preload()
    with a_world(options.seed, options.users, options.months, tmpfs=not options.only) as world:
        order = [*world.drops, world.corrected]
        fresh_database()
        expected = everything(world, order)
        if expected is None:
            print(world.log.read_text()[-3000:], file=sys.stderr)
            raise SystemExit("the undisturbed run failed")
        fresh_database()
        if options.plant:
            faults.PLANTS[options.plant]()
        chaos = Chaos(world, chance)
        # A first build in peace, of drops in another order: else there is nothing to break.
        first = chance.sample(world.drops, len(world.drops) - 1)
        first.sort(key=lambda drop: drop != world.drops[0])  # it lists the users
        if everything(world, first) is None:
            chaos.differences.append("the first build failed")
        chaos.go(options.seconds, options.only)
        chaos.world.start()
        now = everything(world, order)
        if now is None:
            chaos.differences.append(f"the end failed: {world.log.read_text()[-1500:]}")
        else:
            chaos.differences += [
                f"{name} is not as after an undisturbed run"
                for name in expected
                if expected[name] != now.get(name)
            ]
        found = {
            "seed": options.seed, "seconds": round(time.monotonic() - began),
            "kills": sum(n for name, n in chaos.counts.items() if name.startswith("kills")),
            "restarts": chaos.counts["restarts of Postgres"] + chaos.counts["clock jumps"],
            "bad_inputs": chaos.counts["bad inputs"], "acts": dict(sorted(chaos.counts.items())),
            "not_run": [
                *(["full disks: no tmpfs can be mounted here"] if world.tmpfs is None else []),
                *(["clock jumps: no libfaketime here"] if world.faketime is None else []),
            ],
            "compared": len(expected), "differences": chaos.differences,
        }  # fmt: skip
    print(json.dumps(found))
    return int(bool(chaos.differences))


if __name__ == "__main__":
    sys.exit(main())
