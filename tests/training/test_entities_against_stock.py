"""Views of several entities in one frame: equal to stock Feast, and right where stock is not.

If this breaks, a training row of one user's device has another's values.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.types import Int64, String
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.database import Database
from streamflow_feast.offline.store import as_known_at

from .conftest import OURS, day, feast_store, read_as_a_whole, stock_config

ENTITIES = {"user_id": "text", "device_id": "text", "account_id": "bigint"}
KEYS = {
    "plans": ("user_id",),
    "devices": ("device_id",),
    "pairs": ("user_id", "device_id"),
    "seats": ("account_id", "user_id"),
}
VALUES: dict[str, list[Any]] = {
    # Of one length each, so that stock's concatenation of two is unambiguous.
    "user_id": ["a", "b"],
    "device_id": ["x", "y"],
    "account_id": [1, 2],
}
REFS = [f"{view}:{view}_value" for view in KEYS]
Versions = dict[str, dict[tuple[Any, ...], int]]  # view -> (*keys, as_of, known_at) -> value


class World:
    """The four tables, and Feast's own store and ours over one registry."""

    def __init__(self, connection: psycopg.Connection, folder: Path, database: Database) -> None:
        self.connection = connection
        for view, keys in KEYS.items():
            columns = ", ".join(f"{key} {ENTITIES[key]}" for key in keys)
            connection.execute(
                f"create table features.{view} ({columns}, as_of timestamptz, known_at timestamptz,"
                f" is_retracted boolean not null default false, {view}_value bigint,"
                f" primary key ({', '.join(keys)}, as_of, known_at))"
            )
            connection.execute(f"create view published.{view} as select * from features.{view}")
        self.stock = feast_store(folder, stock_config(database))
        self.stock.apply(_objects())
        self.ours = feast_store(folder, OURS)

    def replace(self, versions: Versions) -> None:
        self.connection.execute(f"truncate {', '.join(f'features.{view}' for view in KEYS)}")
        for view, rows in versions.items():
            columns = ", ".join([*KEYS[view], "as_of", "known_at", f"{view}_value"])
            into = f"copy features.{view} ({columns}) from stdin"
            with self.connection.cursor().copy(into) as copy:
                for key, value in rows.items():
                    copy.write_row((*key, value))


def _objects() -> list[Any]:
    kinds = {"text": (String, ValueType.STRING), "bigint": (Int64, ValueType.INT64)}
    entities = {
        key: Entity(name=key, join_keys=[key], value_type=kinds[kind][1])
        for key, kind in ENTITIES.items()
    }
    views = [
        FeatureView(
            name=view,
            entities=[entities[key] for key in keys],
            ttl=timedelta(0),
            schema=[
                *(Field(name=key, dtype=kinds[ENTITIES[key]][0]) for key in keys),
                Field(name=f"{view}_value", dtype=Int64),
            ],
            source=PostgreSQLSource(
                name=view,
                table=f"published.{view}",
                timestamp_field="as_of",
                created_timestamp_column="known_at",
            ),
            online=False,
        )
        for view, keys in KEYS.items()
    ]
    return [*entities.values(), *views]


@pytest.fixture
def world(database: Database, tmp_path: Path) -> Iterator[World]:
    with database.connect() as connection:
        connection.autocommit = True
        yield World(connection, tmp_path, database)


instants = st.integers(0, 5).map(day)
known = st.integers(80, 82).map(day)


@st.composite
def histories(draw: st.DrawFn) -> Versions:
    return {
        view: draw(
            st.dictionaries(
                st.tuples(*(st.sampled_from(VALUES[key]) for key in keys), instants, known),
                st.integers(-9, 9),
                max_size=12,
            )
        )
        for view, keys in KEYS.items()
    }


frames = st.lists(
    st.tuples(*(st.sampled_from(VALUES[key]) for key in ENTITIES), instants),
    min_size=1,
    max_size=8,
)


def as_frame(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[*ENTITIES, "event_timestamp"])
    frame["event_timestamp"] = frame["event_timestamp"].astype("datetime64[us, UTC]")
    return frame.assign(n=range(len(rows)))


def answers(store: FeatureStore, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    table = store.get_historical_features(as_frame(rows), REFS).to_arrow().sort_by("n")
    columns = [table.column(f"{view}_value").to_pylist() for view in KEYS]
    return list(zip(*columns, strict=True))


def oracle(versions: Versions, row: tuple[Any, ...], until: datetime) -> tuple[Any, ...]:
    """A row's values, by the words of the design."""
    given_keys, instant = dict(zip(ENTITIES, row, strict=False)), row[-1]
    found = []
    for view, keys in KEYS.items():
        own = tuple(given_keys[key] for key in keys)
        seen = [
            (as_of, known_at, value)
            for (*key, as_of, known_at), value in versions[view].items()
            if tuple(key) == own and as_of <= instant and known_at <= until
        ]
        found.append(max(seen)[2] if seen else None)
    return tuple(found)


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(versions=histories(), rows=frames, until=known, whole=st.booleans())
def test_a_frame_of_all_keys_equals_stock_feast_and_the_oracle(
    world: World, versions: Versions, rows: list[Any], until: datetime, whole: bool
) -> None:
    world.replace(versions)
    with read_as_a_whole(whole):
        ours = answers(world.ours, rows)
    assert ours == answers(world.stock, rows)
    assert ours == [oracle(versions, row, day(99)) for row in rows]
    with as_known_at(until), read_as_a_whole(whole):
        assert answers(world.ours, rows) == [oracle(versions, row, until) for row in rows]


def test_stock_takes_two_pairs_for_one(world: World) -> None:
    """Its row id is the keys one after the other: 1, 23 and 12, 3 at one instant are both 123."""
    pairs = {("1", "23", day(0), day(80)): 1, ("12", "3", day(0), day(80)): 2}
    world.replace({"pairs": pairs})
    asked = as_frame([("1", "23", 1, day(1)), ("12", "3", 1, day(1))])

    def values(store: FeatureStore) -> list[Any]:
        table = store.get_historical_features(asked, ["pairs:pairs_value"]).to_arrow()
        return table.sort_by("n").column("pairs_value").to_pylist()

    assert values(world.ours) == [1, 2]
    assert values(world.stock) != [1, 2]


def test_a_key_of_another_type_is_told(world: World) -> None:
    asked = as_frame([("a", "x", 1, day(1))]).assign(account_id=["1"])
    with pytest.raises(ValueError, match=r"column account_id holds string .*ids are integers"):
        world.ours.get_historical_features(asked, REFS)
