"""Every type of a contract, from dbt's table to both ends: the same to the last bit.

If this breaks, a model is trained on one value and served another.
"""

from __future__ import annotations

import math
import struct
import uuid
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureStore

from streamflow_feast.dbt.feast_objects import apply_definitions, feast_objects
from streamflow_feast.dbt.manifest import parse_manifest
from streamflow_feast.dbt.types import EXACT_TYPES, is_exact, plain_type
from streamflow_feast.kinds import KINDS, from_value, kind_of, to_value
from streamflow_feast.materialize.audit import AuditError, audit
from streamflow_feast.materialize.engine import MaterializationError
from streamflow_feast.offline import sweep
from streamflow_feast.provider import PushError
from streamflow_feast.training import files
from tests.feast.conftest import REPO
from tests.feast.offline import FEB, JAN, Offline, manifest

NAN, INF = math.nan, math.inf
ID = uuid.UUID("0b7e0a3c-7f2a-4c1e-9a54-4d0f8a1b2c3d")
EMBEDDING = [math.sin(n) / 3 for n in range(384)]
LAST = datetime(2024, 1, 30, 23, 59, 59, tzinfo=timezone.utc)

# Type -> values that are hard to keep, in the form that psycopg gives them.
HARD: dict[str, list[Any]] = {
    "bigint": [2**63 - 1, -(2**63), 0],
    "integer": [2**31 - 1, -(2**31), 0],
    "double precision": [0.1 + 0.2, 5e-324, -0.0, NAN, INF, 1.7976931348623157e308],
    "real": [0.5, 3.4028234663852886e38, -0.0],
    "boolean": [True, False],
    "text": ["", 'é"\n,{}\\', "NULL"],
    "bytea": [b"", b"\x00\xff"],
    "numeric(38,9)": [Decimal("99999999999999999999999999999.999999999"), Decimal("-0.000000001")],
    "numeric(12,2)": [Decimal("0.10"), Decimal("2471.90"), Decimal("0.00")],
    "numeric(50,20)": [Decimal("1" * 30 + "." + "9" * 20)],
    "date": [date(2024, 2, 29), date(1, 1, 1), date(9999, 12, 31)],
    "timestamp with time zone": [LAST, datetime(1, 1, 1, tzinfo=timezone.utc)],
    "uuid": [ID, uuid.UUID(int=0)],
    "jsonb": ['{"a": 1.10, "n": 12345678901234567890.123}', "[]", "null", '"é"'],
    "text[]": [["a", "", 'q"\\', "NULL", "{x,y}", "é\n"], [], ["null"]],
    "bigint[]": [[2**63 - 1, -(2**63)], [], [0]],
    "double precision[]": [EMBEDDING, [], [NAN, -0.0, INF, 5e-324]],
    "boolean[]": [[True, False], []],
}
NAMES = {kind: f"f_{number}" for number, kind in enumerate(HARD)}
VIEW = {"typed_features": {NAMES[kind]: kind for kind in HARD}}
COUNT = max(map(len, HARD.values()))
USERS = [f"u{number}" for number in range(COUNT + 1)]  # the last one has nothing but nulls
REFS = [f"typed_features:{name}" for name in NAMES.values()]


def value_of(kind: str, row: int) -> Any:
    values = HARD[kind]
    return None if row == COUNT else values[row % len(values)]


def bits(value: Any) -> Any:
    """What is compared: doubles by their bits, decimals with their zeros."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, list | np.ndarray):
        return [bits(item) for item in (value.tolist() if hasattr(value, "tolist") else value)]
    return value


@pytest.fixture
def offline(database, target) -> Offline:
    offline = Offline(database, target)
    offline.define(VIEW)
    return offline


@pytest.fixture
def filled(offline: Offline, now) -> FeatureStore:
    store = FeatureStore(repo_path=str(REPO))
    apply_definitions(store)
    rows = [
        (user, JAN, {name: value_of(kind, row) for kind, name in NAMES.items()})
        for row, user in enumerate(USERS)
    ]
    offline.publish({"typed_features": rows})
    store.materialize_incremental(now)
    return store


def frame() -> pd.DataFrame:
    return pd.DataFrame({"user_id": USERS, "event_timestamp": [FEB] * len(USERS)})


def test_every_type_is_tried_here() -> None:
    assert {plain_type(kind).partition("(")[0] for kind in EXACT_TYPES} == set(KINDS)
    assert {kind.partition("(")[0] for kind in HARD} == set(KINDS)
    assert all(map(is_exact, HARD))


@pytest.mark.parametrize("kind", HARD)
def test_a_protobuf_value_reads_back_the_same(kind: str) -> None:
    for value in [*HARD[kind], None]:
        there = to_value(kind, value)
        back = from_value(kind, type(there).FromString(there.SerializeToString()))
        assert bits(back) == bits(value)
        assert type(back) is type(value)


def test_a_type_comes_back_from_the_registry(filled: FeatureStore) -> None:
    from streamflow_feast.views import view_of

    assert dict(view_of(filled.get_feature_view("typed_features")).columns) == {
        name: kind for kind, name in NAMES.items()
    }


def test_a_type_of_another_spelling_is_the_same() -> None:
    spelled = {"f": "DECIMAL(12, 2)", "g": "timestamptz", "h": "int8[]", "i": "float8[]"}
    columns = parse_manifest(manifest({"typed_features": spelled})).tables[0].columns
    assert [column.type for column in columns] == [
        "numeric(12,2)",
        "timestamp with time zone",
        "bigint[]",
        "double precision[]",
    ]


def test_online_is_what_was_published(filled: FeatureStore, offline: Offline) -> None:
    online = offline.online("typed_features")
    for row, user in enumerate(USERS):
        for place, kind in enumerate(HARD):
            value = value_of(kind, row)
            found = online[user][2 + place]
            if kind not in ("jsonb", "real"):  # which psycopg reads from another text here
                assert bits(found) == bits(value)
    (result,) = audit()
    assert (result.compared, result.passed) == (len(USERS), True)


def test_feast_answers_it_exactly(filled: FeatureStore) -> None:
    check_answers(filled)


def check_answers(filled: FeatureStore, absent: Any = None) -> None:
    response = filled.get_online_features(REFS, [{"user_id": user} for user in USERS]).proto
    found = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
    for kind, name in NAMES.items():
        for row, value in enumerate(found[name].values):
            expected = value_of(kind, row)
            if expected is absent:
                expected = None
            assert bits(from_value(kind, value)) == bits(expected), (kind, row)
            field = value.WhichOneof("val")
            assert field == (None if expected is None else kind_of(kind).field)


@pytest.mark.parametrize("bytes_a_look_up", [0, 10**12], ids=["looked up", "read as a whole"])
def test_a_training_set_holds_it_exactly(
    filled: FeatureStore, monkeypatch: pytest.MonkeyPatch, bytes_a_look_up: int
) -> None:
    monkeypatch.setattr(sweep, "BYTES_A_LOOK_UP", bytes_a_look_up)
    table = filled.get_historical_features(frame(), REFS).to_arrow()
    for kind, name in NAMES.items():
        for row, value in enumerate(table.column(name).to_pylist()):
            expected = value_of(kind, row)
            expected = str(expected) if isinstance(expected, uuid.UUID) else expected
            assert bits(value) == bits(expected), (kind, row)
    kinds = {kind: table.schema.field(name).type for kind, name in NAMES.items()}
    assert kinds["numeric(12,2)"] == pa.decimal128(12, 2)
    assert kinds["numeric(50,20)"] == pa.decimal256(50, 20)
    assert kinds["date"] == pa.date32()
    assert kinds["timestamp with time zone"] == pa.timestamp("us", "UTC")
    assert kinds["double precision[]"] == pa.list_(pa.float64())


def test_pandas_csv_and_parquet_hold_it_exactly(filled: FeatureStore, tmp_path) -> None:
    job = filled.get_historical_features(frame(), REFS)
    there = job.to_df()
    name = NAMES["double precision[]"]
    assert bits(there[name][0]) == bits(EMBEDDING)
    assert there[NAMES["numeric(12,2)"]][1] == Decimal("2471.90")
    table = job.to_arrow()
    files.write(table, {}, tmp_path, "set")
    kept = pa.parquet.read_table(tmp_path / "set.parquet")
    assert kept.schema.equals(table.schema.remove_metadata())
    for column in NAMES.values():
        before, after = table.column(column).to_pylist(), kept.column(column).to_pylist()
        assert list(map(bits, before)) == list(map(bits, after))
    text = pd.read_csv(tmp_path / "set.csv", dtype=str, keep_default_na=False)
    assert text[NAMES["numeric(12,2)"]][0] == "0.10"
    assert text[NAMES["date"]][0] == "2024-02-29"
    assert text[NAMES["timestamp with time zone"]][0] == "2024-01-30T23:59:59Z"
    assert text[NAMES["text[]"]][0] == '["a", "", "q\\"\\\\", "NULL", "{x,y}", "é\\n"]'
    assert text[NAMES["bytea"]][1] == "\\x00ff"


def test_a_training_set_can_be_kept_in_a_table(filled: FeatureStore, offline: Offline) -> None:
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
        SavedDatasetPostgreSQLStorage,
    )

    job = filled.get_historical_features(frame(), REFS)
    job.persist(SavedDatasetPostgreSQLStorage(table_ref="kept"))
    with offline.connect() as connection:
        rows = {
            user: rest
            for user, *rest in connection.execute(
                f"select user_id, {NAMES['text[]']}, {NAMES['double precision[]']},"
                f" {NAMES['numeric(12,2)']} from kept"
            )
        }
    for row, user in enumerate(USERS):
        kinds = ("text[]", "double precision[]", "numeric(12,2)")
        assert bits(rows[user]) == bits([value_of(kind, row) for kind in kinds])


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        ("timestamp with time zone", "infinity", "no infinite date or instant"),
        ("date", "infinity", "no infinite date"),
        ("numeric(12,2)", "NaN", "no decimal holds NaN"),
        ("text[]", ["a", None], "one dimension and no null.*array_remove"),
        ("bigint[]", [[1, 2], [3, 4]], "one dimension"),
    ],
)
def test_what_feast_cannot_hold_is_refused_and_changes_nothing(
    filled: FeatureStore, offline: Offline, now, kind: str, value: Any, says: str
) -> None:
    before = offline.online("typed_features")
    offline.publish({"typed_features": [("u0", JAN, {NAMES[kind]: value})]})
    with pytest.raises(MaterializationError, match=f"typed_features.{NAMES[kind]} .*{says}"):
        filled.materialize_incremental(now)
    assert str(offline.online("typed_features")) == str(before)


def test_of_an_instant_both_ends_have_the_whole_seconds(
    filled: FeatureStore, offline: Offline, now
) -> None:
    """Feast's protobuf values have no more; a training set that had would differ from them."""
    name = NAMES["timestamp with time zone"]
    finer = LAST + timedelta(microseconds=999_999)
    rows = [("u0", FEB, {name: finer}), ("u1", FEB, {name: finer}), ("u1", JAN, {name: finer})]
    offline.publish({"typed_features": rows})
    filled.materialize_incremental(now)
    ref = f"typed_features:{name}"
    online = filled.get_online_features([ref], [{"user_id": "u0"}, {"user_id": "u1"}]).to_dict()
    asked = pd.DataFrame({"user_id": ["u0", "u1"], "event_timestamp": [FEB, FEB]})
    trained = filled.get_historical_features(asked, [ref]).to_arrow().column(name).to_pylist()
    ranged = filled.get_historical_features(features=[ref], start_date=FEB, end_date=FEB)
    assert online[name] == trained == ranged.to_arrow().column(name).to_pylist() == [LAST, LAST]
    assert (
        offline.online("typed_features")["u1"][2 + list(NAMES).index("timestamp with time zone")]
        == LAST
    )
    assert audit()[0].passed
    pushed = pd.DataFrame(
        {"user_id": ["u1"], "as_of": [FEB], **{n: pd.Series([None]) for n in NAMES.values()}}
    ).assign(**{name: [finer]})
    filled.write_to_online_store("typed_features", pushed)
    assert filled.get_online_features([ref], [{"user_id": "u1"}]).to_dict()[name] == [LAST]


def test_what_is_pushed_is_answered(filled: FeatureStore, offline: Offline, now) -> None:
    pushed = pd.DataFrame(
        {
            "user_id": USERS,
            "as_of": [FEB] * len(USERS),
            **{
                name: pd.Series([value_of(kind, row) for row in range(len(USERS))], dtype=object)
                for kind, name in NAMES.items()
            },
        }
    )
    filled.write_to_online_store("typed_features", pushed)
    check_answers(filled, absent=NAN)  # which is pandas' null
    online = offline.online("typed_features")
    assert {row[0] for row in online.values()} == {FEB}


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        ("timestamp with time zone", "yesterday", "is 'yesterday'"),
        ("date", LAST, "no value of type date"),
        ("numeric(12,2)", Decimal("0.001"), "no value of type numeric.12,2."),
        ("numeric(12,2)", 0.1, "is 0.1"),
        ("numeric(12,2)", Decimal("10000000000"), "no value of type numeric"),
        ("uuid", "x", "is 'x', which is no value of type uuid"),
        ("jsonb", "{", "is '{'"),
        ("text[]", ["a", None], "one dimension and no null"),
        ("bigint[]", [1.5], "no value of type bigint"),
        ("boolean[]", ["True"], "no value of type boolean"),
        ("double precision[]", 1.0, "no value of type double"),
    ],
)
def test_a_pushed_value_that_does_not_fit_is_told(
    filled: FeatureStore, kind: str, value: Any, says: str
) -> None:
    columns = {name: pd.Series([None], dtype=object) for name in NAMES.values()}
    columns[NAMES[kind]] = pd.Series([value], dtype=object)
    rows = pd.DataFrame({"user_id": ["u0"], "as_of": [FEB], **columns})
    with pytest.raises(PushError, match=f"{NAMES[kind]} of user_id 'u0' .*{says}"):
        filled.write_to_online_store("typed_features", rows)


def test_the_audit_sees_each_type(filled: FeatureStore, offline: Offline) -> None:
    other = {
        "jsonb": "'{\"a\": 2}'",
        "text[]": "'{b}'",
        "numeric(12,2)": "9",
        "date": "'2024-01-01'",
    }
    for kind, value in other.items():
        with offline.connect() as connection:
            connection.execute(
                f"update online.typed_features set {NAMES[kind]} = {value} where user_id = 'u0'"
            )
        with pytest.raises(AuditError, match=f"typed_features u0: .*{NAMES[kind]} is "):
            audit()


def test_a_numeric_becomes_wider_in_place(filled: FeatureStore, offline: Offline, now) -> None:
    name = NAMES["numeric(12,2)"]
    offline.define({"typed_features": {**VIEW["typed_features"], name: "numeric(14,3)"}})
    apply_definitions(filled)
    assert offline.online("typed_features")["u1"][2 + list(HARD).index("numeric(12,2)")] == Decimal(
        "2471.900"
    )


def test_types_that_feast_shares_are_told_apart() -> None:
    objects = feast_objects(parse_manifest(manifest(VIEW)))
    tags = {
        field.name: field.tags.get("postgres_type") for field in objects["typed_features"].features
    }
    assert tags[NAMES["date"]] == "date"
    assert tags[NAMES["timestamp with time zone"]] is None
    assert tags[NAMES["numeric(12,2)"]] == "numeric(12,2)"
