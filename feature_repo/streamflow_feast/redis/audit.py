"""The audit for Redis: what `get_online_features` answers against what is published, in batches.

Entities that should not be there are looked for among all that were ever published; a key that
never was one cannot be found this way.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

import psycopg
from feast import FeatureStore
from feast.protos.feast.types.Value_pb2 import Value

from data.database import Database
from data.paths import FEATURE_REPO
from streamflow_feast.connections import transaction
from streamflow_feast.kinds import from_value, to_value
from streamflow_feast.materialize import stream
from streamflow_feast.materialize.audit import (
    NAMED,
    AuditError,
    AuditResult,
    conclude,
    expected_as_of,
)
from streamflow_feast.materialize.engine import StreamflowEngine
from streamflow_feast.materialize.slice import Plan, newest_publication
from streamflow_feast.tables import View
from streamflow_feast.views import view_of

BATCH = 1_000
Answer = tuple[datetime | None, tuple[Value, ...]]  # as_of (None: no row) and values


def audit_redis(
    settings: Database | None = None,
    views: Sequence[str] | None = None,
    store: FeatureStore | None = None,
) -> list[AuditResult]:
    """As audit.audit, for the store that feature_store.redis.yaml (or `store`) describes."""
    settings = settings or Database()
    if store is None:
        store = FeatureStore(fs_yaml_file=FEATURE_REPO / "feature_store.redis.yaml")
    engine = store._get_provider().batch_engine
    assert isinstance(engine, StreamflowEngine)
    name = engine.store_name()
    tables = [view_of(view) for view in store.list_feature_views()]
    with transaction(settings, "streamflow audit") as connection:
        publication = newest_publication(connection)
        if publication is None:
            raise AuditError("Nothing is published yet: cd dbt_project && dbt build")
        results = [
            _compare(connection, store, table, name, publication)
            for table in tables
            if views is None or table.name in views
        ]
    return conclude(settings, results, name)


def _compare(
    connection: psycopg.Connection,
    store: FeatureStore,
    view: View,
    name: str,
    publication: datetime,
) -> AuditResult:
    began = time.perf_counter()
    as_of = expected_as_of(connection, view, name, publication)
    end = as_of or publication
    plan = Plan(view, name, "slice", as_of, as_of, publication, None, None, end, view.names)
    counts = {"pushed": 0, "missing": 0, "extra": 0, "differing": 0}
    compared, examples = 0, list[str]()
    for keys, expected, answer in _pairs(connection, store, plan):
        compared += expected is not None
        if expected is None and answer[0] is None:
            continue
        if expected is not None and _bits(expected) == _bits(answer):
            continue
        if answer[0] is not None and (as_of is None or answer[0] > as_of):
            counts["pushed"] += 1  # there is no mark in Redis; this is newer than any published
            continue
        kind = "extra" if expected is None else "missing" if answer[0] is None else "differing"
        counts[kind] += 1
        if len(examples) < NAMED:
            examples.append(
                f"{view.name} {', '.join(map(str, keys))}: {kind}, online {_shown(view, answer)}, "
                f"offline {_shown(view, expected)}"
            )
    seconds = time.perf_counter() - began
    return AuditResult(
        view.name, publication, as_of, compared, **counts, seconds=seconds, examples=tuple(examples)
    )


def _pairs(
    connection: psycopg.Connection, store: FeatureStore, plan: Plan
) -> Iterator[tuple[tuple[Any, ...], Answer | None, Answer]]:
    """(keys, what should be answered, what is): entities of the slice, then those who left."""
    count, kinds = len(plan.view.keys), [kind for _, kind in plan.view.columns]
    for rows in stream.batches(stream.rows_to_write(connection, plan), BATCH):
        answers = _ask(store, plan.view, [row[:count] for row in rows])
        for row, answer in zip(rows, answers, strict=True):
            as_of, _, *features = row[count:]
            yield row[:count], (as_of, tuple(map(to_value, kinds, features))), answer
    for gone in stream.batches(stream.keys_to_remove(connection, plan), BATCH):
        for keys, answer in zip(gone, _ask(store, plan.view, gone), strict=True):
            yield keys, None, answer


def _ask(store: FeatureStore, view: View, keys: Sequence[tuple[Any, ...]]) -> list[Answer]:
    response = store.get_online_features(
        features=[f"{view.name}:{name}" for name in view.names],
        entity_rows=[
            {
                name: str(value) if kind == "uuid" else value
                for (name, kind), value in zip(view.keys, row, strict=True)
            }
            for row in keys
        ],
    ).proto
    vectors = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
    stamps = vectors[view.names[0]].event_timestamps
    answers: list[Answer] = []
    for place in range(len(keys)):
        # Feast's Redis store answers 1970 for an entity it does not know.
        known = stamps[place].seconds or stamps[place].nanos
        as_of = stamps[place].ToDatetime(timezone.utc) if known else None
        answers.append((as_of, tuple(vectors[name].values[place] for name in view.names)))
    return answers


def _bits(answer: Answer) -> tuple[datetime | None, list[bytes]]:
    """What is compared: NaN equals itself, and 0.0 not -0.0. A null is an unset value."""
    as_of, values = answer
    nulls = (None, "null_val")
    return as_of, [
        b"" if v.WhichOneof("val") in nulls else v.SerializeToString(deterministic=True)
        for v in values
    ]


def _shown(view: View, answer: Answer | None) -> str:
    if answer is None or answer[0] is None:
        return "nothing"
    values = zip(view.columns, answer[1], strict=True)
    return str((answer[0], *(from_value(kind, value) for (_, kind), value in values)))
