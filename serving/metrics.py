"""Prometheus metrics of the API.

With several workers (`python -m serving --workers n`, `uvicorn --workers n`) each writes to files
in one folder, PROMETHEUS_MULTIPROC_DIR, and whichever worker is scraped adds them up.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.values import MutexValue, ValueClass

from serving.answers import UNIX_2000
from serving.feature_log import LOGGED

if TYPE_CHECKING:
    from serving.state import State

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

REQUESTS = Counter("streamflow_requests", "Requests answered.", ["route", "method", "status"])
REQUEST_SECONDS = Histogram(
    "streamflow_request_seconds",
    "Time from the request's arrival to the end of its answer.",
    ["route"],
    buckets=SECONDS,
)
STORE_SECONDS = Histogram(
    "streamflow_store_seconds",
    "Time a request waited for the online store, queueing included.",
    buckets=SECONDS,
)
WRONG_KEYS = Counter("streamflow_wrong_api_keys", "Requests with an API key that is none.")
USERS = Counter("streamflow_users", "Users answered about.", ["service"])
UNKNOWN_USERS = Counter(
    "streamflow_unknown_users", "Users asked for of whom nothing is known.", ["service"]
)


class _AllWorkers:
    """The sums over all workers; Feast's own metrics lie in the same folder and are left out."""

    def collect(self) -> Iterator[Metric]:
        for metric in MultiProcessCollector(None).collect():
            if metric.name.startswith("streamflow_"):
                yield metric


class _Now:
    """What is true at the moment of the scrape, whichever worker answers it."""

    def __init__(self, state: State) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        state = self._state
        age = GaugeMetricFamily(
            "streamflow_features_age_seconds",
            "Age of the as_of that is online, a view.",
            labels=["view"],
        )
        for view, as_of in state.newest.items():
            age.add_metric([view], time.time() - UNIX_2000 - as_of / 1e6)
        yield age
        yield GaugeMetricFamily(
            "streamflow_store_up", "1 when the online store is connected.", float(state.store.up)
        )
        yield GaugeMetricFamily(
            "streamflow_registry_version",
            "Version of the registry in use, -1 before one was loaded.",
            state.catalogue.version if state.catalogue else -1,
        )
        yield GaugeMetricFamily(
            "streamflow_refreshed_seconds",
            "Seconds since registry and ledger were last read.",
            time.time() - state.refreshed if state.refreshed else float("inf"),
        )


def exposition(state: State) -> bytes:
    """All metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    if ValueClass is not MutexValue:  # in files: the folder was there when the client was imported
        registry.register(_AllWorkers())
    else:
        for metric in (
            REQUESTS,
            REQUEST_SECONDS,
            STORE_SECONDS,
            WRONG_KEYS,
            USERS,
            UNKNOWN_USERS,
            LOGGED,
        ):
            registry.register(metric)
    registry.register(_Now(state))
    return generate_latest(registry)


def count_users(service: str, users: int, unknown: int) -> None:
    """Count users answered about, and those of whom nothing is known."""
    USERS.labels(service).inc(users)
    if unknown:
        UNKNOWN_USERS.labels(service).inc(unknown)
