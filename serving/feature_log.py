"""A sample of the answers as they were served, for `make skew`; off unless it is asked for.

A request only puts its answer on a list. What is made of it, in Feast's form of feature logs
(streamflow_feast/feature_logs.py), is made in a thread beside, every few seconds and at the end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

import pyarrow as pa
from feast.feature_logging import LOG_DATE_FIELD, LOG_TIMESTAMP_FIELD, REQUEST_ID_FIELD
from feast.infra.offline_stores.offline_utils import get_offline_store_from_config
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.repo_config import RepoConfig
from prometheus_client import Counter

from serving.answers import encode, instant
from serving.catalogue import CLOCKS, Row, Service
from serving.settings import Settings
from serving.store.base import end
from streamflow_feast.feature_logs import (
    HASHED,
    PROVENANCE,
    SERVED,
    Pseudonyms,
    ServiceLogs,
    arrow_value,
    destination,
)
from streamflow_feast.kinds import kind_of

log = logging.getLogger("serving.feature_log")

LOGGED = Counter("streamflow_logged_answers", "Answers sampled for the feature logs.", ["outcome"])
MOST = 20_000  # answers that wait to be written; more are let go, and counted
STATUSES = {"unknown": FieldStatus.NOT_FOUND, "older_than_ttl": FieldStatus.OUTSIDE_MAX_AGE}


class Served(NamedTuple):
    """An answer, and the row that it was made from."""

    at: datetime
    service: Service
    body: bytes
    row: Row
    given: Mapping[str, Any]


class FeatureLog:
    """Collects answers and writes them. One a process."""

    def __init__(self, settings: Settings, feast: RepoConfig) -> None:
        self._settings, self._feast = settings, feast
        self._rate = settings.log_features
        self._waiting: list[Served] = []
        self._pseudonyms: Pseudonyms | None = None
        self._writer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make the salt where there is none; begin to write.

        Raises:
            OSError: the folder cannot be written to.
        """
        if not self._settings.log_keys:
            given = self._settings.log_salt.get_secret_value()
            self._pseudonyms = Pseudonyms.in_folder(self._settings.log_folder, given)
        self._writer = asyncio.create_task(self._write_now_and_then())

    async def stop(self) -> None:
        """Write what is left."""
        await end([self._writer] if self._writer else [])
        await self._write()

    def chosen(self) -> bool:
        """Whether an answer is one of the sample."""
        return random.random() < self._rate

    def take(self, service: Service, body: bytes, row: Row, given: Mapping[str, Any]) -> None:
        """Have an answer logged."""
        if len(self._waiting) >= MOST:
            LOGGED.labels("dropped").inc()
            return
        self._waiting.append(Served(datetime.now(timezone.utc), service, body, row, given))

    async def _write_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._settings.log_every)
            await self._write()

    async def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        try:
            await asyncio.to_thread(self.write, waiting)
        except Exception:  # a full disk must not end the answers
            log.exception("feature logs not written: %s answers are lost", len(waiting))
            LOGGED.labels("failed").inc(len(waiting))
        else:
            LOGGED.labels("written").inc(len(waiting))

    def write(self, served: Sequence[Served]) -> None:
        """Append answers to the logs of their services, through the offline store of Feast."""
        of: dict[int, list[Served]] = {}
        for answer in served:
            of.setdefault(id(answer.service), []).append(answer)
        store = get_offline_store_from_config(self._feast.offline_store)
        for answers in of.values():
            service = answers[0].service
            source = form(service, hashed=self._pseudonyms is not None)
            table = pa.Table.from_pylist(
                [_logged(source, answer, self._pseudonyms) for answer in answers],
                schema=source.get_schema(),
            )
            config = destination(self._settings.log_folder, service.name, self._rate)
            store.write_logged_features(self._feast, table, source, config, None)


def form(service: Service, *, hashed: bool) -> ServiceLogs:
    """The form of a service's logs."""
    features = {
        (view.shown, feature.column): kind_of(feature.kind).feast
        for view in service.views
        for feature in view.answered
    }
    on_demand = service.on_demand
    request: dict[str, Any] = {}
    for view in on_demand.views if on_demand else ():
        of = {field.name: field.dtype for field in view.features}
        features |= {(v, n): of[n] for v, n in service.computed if v == view.name}
        for source in view.source_request_sources.values():
            request |= {field.name: field.dtype for field in source.schema}
    keys = {key: kind_of(kind).feast for key, kind in service.keys.items()}
    return ServiceLogs(service.name, keys, request, features, hashed)


def _logged(source: ServiceLogs, served: Served, pseudonyms: Pseudonyms | None) -> dict[str, Any]:
    """A row of the logs. Runs beside the requests."""
    answer = json.loads(served.body)
    keys = answer.get("entity") or {"user_id": answer["user_id"]}
    service = served.service
    clocks = service.clocks_of(served.row)
    names = {
        (view.shown, feature.column): feature.name
        for view in service.views
        for feature in view.answered
    } | {(view, name): name for view, name in service.computed}
    row: dict[str, Any] = {
        key: pseudonyms.of(value) if pseudonyms else value for key, value in keys.items()
    }
    row |= {name: served.given.get(name) for name in source.request}
    provenance = {}
    for place, view in enumerate(service.views):
        moments = clocks[CLOCKS * place : CLOCKS * (place + 1)]
        as_of, known_at, published_at = (None if m is None else instant(m) for m in moments)
        provenance[view.shown] = {
            "status": answer["views"][view.name]["status"],
            "as_of": as_of,
            "known_at": known_at,
            "published_at": published_at,
        }
    values = {}
    for (shown, name), kind in source.features.items():
        value = answer["features"][names[shown, name]]
        of_view = provenance.get(shown)
        as_of = of_view["as_of"] if of_view else None
        status = STATUSES.get(of_view["status"]) if of_view else None
        present = FieldStatus.NULL_VALUE if value is None else FieldStatus.PRESENT
        values[f"{shown}__{name}"] = value
        row[f"{shown}__{name}"] = arrow_value(kind, value)
        row[f"{shown}__{name}__timestamp"] = as_of and datetime.fromisoformat(
            as_of.replace("Z", "+00:00")
        ).replace(microsecond=0)
        row[f"{shown}__{name}__status"] = present if status is None else status
    return row | {
        LOG_TIMESTAMP_FIELD: served.at,
        LOG_DATE_FIELD: served.at.date(),
        REQUEST_ID_FIELD: secrets.token_hex(8),
        SERVED: encode(values),
        PROVENANCE: encode(provenance),
        HASHED: pseudonyms is not None,
    }
