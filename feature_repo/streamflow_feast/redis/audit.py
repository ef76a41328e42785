"""The audit for Redis: what `get_online_features` answers against what is published, in batches.

Users that should not be there are looked for among all that were ever published; a key that
never was a user of StreamFlow cannot be found this way.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

import psycopg
from feast import FeatureStore

from data.database import Database
from data.paths import FEATURE_REPO
from streamflow_feast.connections import transaction
from streamflow_feast.materialize import slice as publish
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
from streamflow_feast.views import from_value, view_of

BATCH = 1_000
Answer = tuple[datetime | None, tuple[Any, ...]]  # as_of (None: no row) and values


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
    counts = {"ahead": 0, "missing": 0, "extra": 0, "differing": 0}
    compared, examples = 0, list[str]()
    for user_id, expected, answer in _pairs(connection, store, plan):
        compared += expected is not None
        if expected == answer or (expected is None and answer[0] is None):
            continue
        if answer[0] is not None and (as_of is None or answer[0] > as_of):
            counts["ahead"] += 1
            continue
        kind = "extra" if expected is None else "missing" if answer[0] is None else "differing"
        counts[kind] += 1
        if len(examples) < NAMED:
            examples.append(f"{view.name} {user_id}: {kind}, online {answer}, offline {expected}")
    seconds = time.perf_counter() - began
    return AuditResult(
        view.name, publication, as_of, compared, **counts, seconds=seconds, examples=tuple(examples)
    )


def _pairs(
    connection: psycopg.Connection, store: FeatureStore, plan: Plan
) -> Iterator[tuple[str, Answer | None, Answer]]:
    """(user_id, what should be answered, what is): users of the slice, then those who left."""
    for rows in publish.batches(publish.rows_to_write(connection, plan), BATCH):
        answers = _ask(store, plan.view, [row[0] for row in rows])
        for (user_id, as_of, _, *features), answer in zip(rows, answers, strict=True):
            yield user_id, (as_of, tuple(features)), answer
    for gone in publish.batches(publish.users_to_remove(connection, plan), BATCH):
        answers = _ask(store, plan.view, [user_id for (user_id,) in gone])
        for (user_id,), answer in zip(gone, answers, strict=True):
            yield user_id, None, answer


def _ask(store: FeatureStore, view: View, user_ids: list[str]) -> list[Answer]:
    response = store.get_online_features(
        features=[f"{view.name}:{name}" for name in view.names],
        entity_rows=[{"user_id": user_id} for user_id in user_ids],
    ).proto
    vectors = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
    stamps = vectors[view.names[0]].event_timestamps
    answers: list[Answer] = []
    for place in range(len(user_ids)):
        # Feast's Redis store answers 1970 for a user it does not know.
        known = stamps[place].seconds or stamps[place].nanos
        as_of = stamps[place].ToDatetime(timezone.utc) if known else None
        values = tuple(from_value(vectors[name].values[place]) for name in view.names)
        answers.append((as_of, values))
    return answers
