"""The engine's rows into stock Feast's Redis store, in batches, through Feast's own writer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import psycopg
from feast import FeatureView
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.repo_config import RepoConfig

from streamflow_feast.kinds import to_value
from streamflow_feast.materialize import slice as publish
from streamflow_feast.materialize.slice import Outcome, Plan
from streamflow_feast.tables import View
from streamflow_feast.views import entity_key

BATCH = 2_000  # entities read, compared and written at a time


class RedisWriter:
    """Writes one feature view.

    Stock Feast skips a row whose timestamp is not newer than the one in Redis, so a correction of
    the same as_of would never arrive. Here the rows of a batch are read first; what is newer in
    Redis (somebody pushed it) or equal stays, and the rest is written with Feast's `skip_dedup`.
    """

    def __init__(
        self, config: RepoConfig, store: RedisOnlineStore, feature_view: FeatureView, view: View
    ) -> None:
        self.config, self.store, self.feature_view, self.view = config, store, feature_view, view
        self.writing = config.model_copy()
        self.writing._online_store = config.online_store.model_copy(update={"skip_dedup": True})

    def run(self, connection: psycopg.Connection, plan: Plan) -> Outcome:
        """As publish.run. Redis has no transactions: a killed run is repeated by the next one."""
        began, outcome = time.perf_counter(), Outcome()
        if plan.form != "nothing":
            for gone in publish.batches(publish.keys_to_remove(connection, plan), BATCH):
                outcome.removed += self._remove(gone)
            for rows in publish.batches(publish.rows_to_write(connection, plan), BATCH):
                outcome.considered += len(rows)
                outcome.changed += self._write(rows)
        outcome.unchanged = outcome.considered - outcome.changed
        outcome.seconds = time.perf_counter() - began
        return outcome

    def _write(self, rows: Sequence[tuple[Any, ...]]) -> int:
        """Write the (*keys, as_of, known_at, *features) that differ; how many did."""
        count, names = len(self.view.keys), self.view.names
        of = dict(self.view.keys)
        keys = [entity_key(of, row[:count]) for row in rows]
        stored = self.store.online_read(self.config, self.feature_view, keys, list(names))
        data = []
        for key, row, (was, old) in zip(keys, rows, stored, strict=True):
            as_of, known_at, *features = row[count:]
            new = {
                name: to_value(kind, value)
                for (name, kind), value in zip(self.view.columns, features, strict=True)
            }
            if was is None or was < as_of or (was == as_of and old != new):
                data.append((key, new, as_of, known_at))
        if data:
            self.store.online_write_batch(self.writing, self.feature_view, data, None)
        return len(data)

    def _remove(self, gone: Sequence[tuple[Any, ...]]) -> int:
        """Delete the view's fields of these entities; how many had any."""
        name = self.view.name
        fields = [_mmh3(f"{name}:{feature}") for feature in self.view.names]
        client = self.store._get_client(self.config.online_store)
        version = self.config.entity_key_serialization_version
        with client.pipeline(transaction=False) as pipeline:
            for keys in gone:
                key = _redis_key(
                    self.config.project,
                    entity_key(dict(self.view.keys), keys),
                    entity_key_serialization_version=version,
                )
                pipeline.hdel(key, f"_ts:{name}", *fields)
            return sum(1 for deleted in pipeline.execute() if deleted)
