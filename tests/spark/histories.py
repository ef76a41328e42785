"""Random histories of the oracle's generator, on both engines."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.dbt import builds, histories
from tests.spark.sides import Compared, Sides, stop_session


def compare_histories(folder: Path, number: int, seed: int, cadence: str = "drops") -> Compared:
    """Load `number` histories into both, build at every stop, compare every version."""
    builds.empty()
    stop_session()
    sides = Sides(folder / f"histories-{cadence}")
    drawn = histories.draw(seed, number, cadence)
    total = Compared()
    for count, delivery in enumerate(drawn.deliveries, 1):
        drop = histories.write(sides.folder / str(count), delivery, count)
        loaded = sides.deliver(drop)
        assert loaded[0].tables == loaded[1].tables, f"the loads of delivery {count} differ"
        if count in drawn.builds:
            sides.build_both(cadence=cadence)
            total = sides.compare()  # all versions of all publications so far
    stop_session()
    shutil.rmtree(sides.folder)
    return total
