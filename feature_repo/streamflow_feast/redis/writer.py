"""The engine's rows into stock Feast's Redis store, in batches, through Feast's own writer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import psycopg
from feast import FeatureView
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.repo_config import RepoConfig

from streamflow_feast.kinds import to_value
from streamflow_feast.materialize import slice as publish
from streamflow_feast.materialize import stream
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
        self.whatever_is_there = False
        self.writing = config.model_copy()
        self.writing._online_store = config.online_store.model_copy(update={"skip_dedup": True})

    def run(self, connection: psycopg.Connection, plan: Plan) -> Outcome:
        """As publish.run. Redis has no transactions: a killed run is repeated by the next one."""
        began, outcome = time.perf_counter(), Outcome()
        client = self.store._get_client(self.config.online_store)
        if publish.may_repair(plan):
            # Empty, or filled by a ledger that is not this one: one of the two was restored.
            known = None if plan.brought == publish.EPOCH else plan.brought
            outcome.repaired = self.whatever_is_there = self._marked(client) != known
        if outcome.repaired:
            plan = replace(plan, form="slice")
            outcome.removed += self._remove_strangers(client, connection, plan)
        if plan.form != "nothing":
            for gone in stream.batches(stream.keys_to_remove(connection, plan), BATCH):
                outcome.removed += self._remove(gone)
            for rows in stream.batches(stream.rows_to_write(connection, plan), BATCH):
                outcome.considered += len(rows)
                outcome.changed += self._write(rows)
            client.hset(self._mark, self.view.name, plan.publication.isoformat())
        outcome.unchanged = outcome.considered - outcome.changed
        outcome.seconds = time.perf_counter() - began
        return outcome

    @property
    def _mark(self) -> str:
        """A hash beside the features: view -> the publication that was brought here last."""
        return f"streamflow:{self.config.project}:publications"

    def _marked(self, client: Any) -> datetime | None:
        found = client.hget(self._mark, self.view.name)
        return datetime.fromisoformat(found.decode()) if found else None

    def _remove_strangers(self, client: Any, connection: psycopg.Connection, plan: Plan) -> int:
        """Take the view's fields from every key in Redis that is not of the slice, whoever wrote
        it and whether or not this ledger knows it; how many had any."""
        count, project = len(self.view.keys), self.config.project
        kept = {self._key(row[:count]) for row in stream.rows_to_write(connection, plan)}
        removed = 0
        found = client.scan_iter(match=b"*" + project.encode(), count=BATCH)
        for keys in stream.batches((key for key in found if key not in kept), BATCH):
            removed += self._remove_fields(client, keys)
        return removed

    def _write(self, rows: Sequence[tuple[Any, ...]]) -> int:
        """Write the (*keys, as_of, known_at, *features) that differ; how many did. What is newer in
        Redis stays, as somebody pushed it, unless `whatever_is_there` is to be replaced."""
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
            newer_there = was is not None and was > as_of and not self.whatever_is_there
            if not newer_there and (was != as_of or old != new):
                data.append((key, new, as_of, known_at))
        if data:
            self.store.online_write_batch(self.writing, self.feature_view, data, None)
        return len(data)

    def _remove(self, gone: Sequence[tuple[Any, ...]]) -> int:
        """Delete the view's fields of these entities; how many had any."""
        client = self.store._get_client(self.config.online_store)
        return self._remove_fields(client, [self._key(keys) for keys in gone])

    def _key(self, keys: Sequence[Any]) -> bytes:
        return _redis_key(
            self.config.project,
            entity_key(dict(self.view.keys), keys),
            entity_key_serialization_version=self.config.entity_key_serialization_version,
        )

    def _remove_fields(self, client: Any, keys: Sequence[bytes]) -> int:
        name = self.view.name
        fields = [_mmh3(f"{name}:{feature}") for feature in self.view.names]
        with client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hdel(key, f"_ts:{name}", *fields)
            return sum(1 for deleted in pipeline.execute() if deleted)
