"""Ids and other columns of an entity frame: exact, or an error that names the rows."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from streamflow_feast.offline.entity_frame import EntityFrameError

from .conftest import Version, World, day

FEE = ["plan_features:fee"]
ONE = UUID("123e4567-e89b-12d3-a456-426614174000")


@pytest.fixture
def world(world: World) -> World:
    for user in ("a", "007", "7", str(ONE)):
        world.put("plan_features", Version(user, day(1), day(5), (1.0, 1, user)))
    return world


def frame(ids: object) -> pd.DataFrame:
    return pd.DataFrame({"user_id": ids, "event_timestamp": [day(2)] * len(ids)})


def asked(world: World, entities: object) -> pa.Table:
    return world.ours.get_historical_features(entities, FEE).to_arrow()


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([7, 8], r"user_id holds int64 \(row 0: 7, row 1: 8\); .*\.astype\(str\).*'007'"),
        (np.arange(9), r"\(row 0: 0, row 1: 1, row 2: 2 and 6 more rows\)"),
        ([None, 7.0], r"user_id holds double \(row 1: 7\.0\); .*\.astype\('Int64'\)"),
        (["007", 7], r"column user_id mixes int and str"),
        (["a", "b\0c"], r"user_id has a NUL character in row 1 \('b\\x00c'\)"),
        (pd.Categorical(["a", "\0"]), r"user_id has a NUL character in row 1"),
    ],
)
def test_an_id_that_is_no_text_names_its_rows_and_the_way_on(
    world: World, ids: object, says: str
) -> None:
    """7 may be user "7" or "007": taken for either in silence, a model learns from a stranger."""
    with pytest.raises(EntityFrameError, match=says):
        asked(world, frame(ids))


@pytest.mark.parametrize("key", ["7", "'7'::char(1)", "7::bigint", "7.0"])
def test_a_query_with_integer_ids_is_refused_alike(world: World, key: str) -> None:
    query = f"select {key} as user_id, now() as event_timestamp"
    if "'" in key:
        assert asked(world, query).column("fee").to_pylist() == [1.0]
    else:
        with pytest.raises(EntityFrameError, match="user_id::text"):
            asked(world, query)


def test_decimals_and_uuids_of_a_query_come_back_exact(world: World) -> None:
    query = f"""
        select 'a' as user_id, timestamptz '2024-01-03' + n * interval '1 day' as event_timestamp,
            (array[12345678901234567890.10, -0.05, null])[n]::numeric(30, 2) as amount,
            (array[0.1, 1234567890123456789012345678901234567890, null])[n] as any_amount,
            (array[1, 2, 3])[n]::numeric(50, 10) as wide,
            null::numeric as nothing,
            uuid '{ONE}' as reference
        from generate_series(1, 3) as n"""
    got = asked(world, query)
    assert got.column("amount").to_pylist() == [
        Decimal("12345678901234567890.10"), Decimal("-0.05"), None
    ]  # fmt: skip
    assert got.schema.field("amount").type == pa.decimal128(30, 2)
    assert got.column("any_amount").to_pylist() == [Decimal("0.1"), Decimal("1234567890" * 4), None]
    assert got.column("wide").to_pylist() == [1, 2, 3]
    assert got.column("nothing").null_count == 3
    assert got.column("reference").to_pylist() == [str(ONE)] * 3
    assert got.column("fee").to_pylist() == [1.0] * 3
    shown = world.ours.get_historical_features(query, FEE).to_df()
    assert shown["amount"].tolist()[:2] == [Decimal("12345678901234567890.10"), Decimal("-0.05")]


def test_a_uuid_is_an_id_as_its_text(world: World) -> None:
    query = f"select uuid '{ONE}' as user_id, timestamptz '2024-01-03' as event_timestamp"
    for entities in (query, frame([ONE]), frame([str(ONE)])):
        got = asked(world, entities)
        assert got.column("user_id").to_pylist() == [str(ONE)]
        assert got.column("fee").to_pylist() == [1.0]


@pytest.mark.parametrize("value", ["'NaN'::numeric", "('1' || repeat('0', 80))::numeric"])
def test_a_numeric_that_no_decimal_holds_is_refused(world: World, value: str) -> None:
    query = f"select 'a' as user_id, now() as event_timestamp, {value} as amount"
    with pytest.raises(EntityFrameError, match="column amount"):
        asked(world, query)


def test_decimals_can_be_kept_in_a_table(world: World) -> None:
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
        SavedDatasetPostgreSQLStorage,
    )

    query = "select 'a' as user_id, timestamptz '2024-01-03' as event_timestamp, 1.10 as amount"
    job = world.ours.get_historical_features(query, FEE)
    job.persist(SavedDatasetPostgreSQLStorage(table_ref="kept"))
    assert world.connection.execute("select amount from kept").fetchall() == [(Decimal("1.10"),)]


def test_a_nul_in_an_id_of_a_request_is_told() -> None:
    from feast.protos.feast.types.Value_pb2 import Value

    from streamflow_feast.online.answer import JoinKeyError, key_value

    with pytest.raises(JoinKeyError, match=r"user_id 'a\\x00b' has a NUL character"):
        key_value("user_id", "text", Value(string_val="a\0b"))
