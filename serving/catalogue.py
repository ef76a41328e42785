"""What can be served: Feast's registry, resolved into one SQL statement a feature service."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from operator import itemgetter
from typing import Any

from feast.protos.feast.core.FeatureView_pb2 import FeatureView as FeatureViewProto
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.value_type import ValueType

from streamflow_feast.online.read import Lookup, select_vectors

Row = tuple[Any, ...]  # of a service's statement; the clocks are microseconds since 2000

JOIN_KEY = "user_id"
PUBLISHED_AT = "published_at"  # when the row was written online: read like a feature
CLOCKS = 3  # a row has as_of, known_at and published_at of each view before its features


@dataclass(frozen=True)
class Feature:
    """One feature of a service. `name` is its key in answers, `column` its name in the view."""

    name: str
    column: str
    type: str
    description: str
    unit: str


@dataclass(frozen=True)
class View:
    """One feature view of a service, with the features the service takes from it."""

    name: str
    features: tuple[Feature, ...]
    ttl_seconds: float  # 0: no expiry
    description: str
    lineage: str  # place of the dbt model in dbt's docs, "" where unknown
    first: int  # place of the view's first feature among the service's values
    proto: FeatureViewProto = field(repr=False, compare=False)


@dataclass(frozen=True)
class Service:
    """A feature service, ready to be read.

    `statement` takes an array of user ids and gives a row for each, in order: for each view in
    turn as_of, known_at, published_at (null: unknown user), then its features.
    """

    name: str
    description: str
    views: tuple[View, ...]
    statement: bytes
    digest: str  # changes with anything that can change an answer

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the features as answered, in the order of the statement's columns."""
        return tuple(feature.name for view in self.views for feature in view.features)

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Where each view's values lie among those of `names`."""
        return tuple((view.first, view.first + len(view.features)) for view in self.views)

    @cached_property
    def clocks_of(self) -> Callable[[Row], Row]:
        """Takes the clocks out of a row: three for each view."""
        starts = [view.first + CLOCKS * i for i, view in enumerate(self.views)]
        return itemgetter(*(start + i for start in starts for i in range(CLOCKS)))

    @cached_property
    def values_of(self) -> Callable[[Row], Row]:
        """Takes the values out of a row, in the order of `names`."""
        starts = [view.first + CLOCKS * (i + 1) for i, view in enumerate(self.views)]
        places = [
            s + i
            for s, view in zip(starts, self.views, strict=True)
            for i in range(len(view.features))
        ]
        return itemgetter(*places) if places[1:] else lambda row: (row[places[0]],)


@dataclass(frozen=True)
class Catalogue:
    """All services of one version of the registry. `refused`: service -> why it is not served."""

    version: int
    updated_at: datetime
    services: dict[str, Service]
    refused: dict[str, str]


def read_catalogue(blob: bytes, project: str, version: int = 0) -> Catalogue:
    """The services of `project` in a serialised Feast registry."""
    registry = Registry.FromString(blob)
    views = {v.spec.name: v for v in registry.feature_views if v.spec.project == project}
    services: dict[str, Service] = {}
    refused: dict[str, str] = {}
    for proto in registry.feature_services:
        if proto.spec.project != project:
            continue
        try:
            services[proto.spec.name] = _service(proto.spec, views)
        except _RefusedError as reason:
            refused[proto.spec.name] = str(reason)
    updated_at = registry.last_updated.ToDatetime(tzinfo=timezone.utc)
    return Catalogue(version, updated_at, services, refused)


class _RefusedError(Exception):
    """Why a feature service cannot be served from typed rows keyed by user."""


def _service(spec, views: dict[str, FeatureViewProto]) -> Service:  # type: ignore[no-untyped-def]
    columns = [c.name for p in spec.features for c in p.feature_columns]
    twice = {name for name, times in Counter(columns).items() if times > 1}
    plans: list[View] = []
    for projection in spec.features:
        name = projection.feature_view_name
        view = views.get(name)
        if view is None:
            raise _RefusedError(f"{name} is no plain feature view (on-demand views are not served)")
        if [c.name for c in view.spec.entity_columns] != [JOIN_KEY] or projection.join_key_map:
            raise _RefusedError(f"{name} is not keyed by {JOIN_KEY}")
        shown = projection.feature_view_name_alias or name
        features = tuple(
            Feature(
                # Feast's own rule for full names, applied only where short ones collide
                name=f"{shown}__{c.name}" if c.name in twice else c.name,
                column=c.name,
                type=ValueType(c.value_type).name.lower(),
                description=c.description,
                unit=c.tags.get("unit", ""),
            )
            for c in projection.feature_columns
        )
        ttl = view.spec.ttl.ToTimedelta().total_seconds()
        first = sum(len(plan.features) for plan in plans)
        model = view.spec.tags.get("dbt_model", "")
        lineage = f"/#!/model/{model}?g_v=1" if model else ""
        plans.append(View(name, features, ttl, view.spec.description, lineage, first, view))
    if not columns:
        raise _RefusedError("it has no features")
    if len({v.name for v in plans}) < len(plans):
        raise _RefusedError("it takes a feature view twice")
    lookups = [
        Lookup(v.name, {JOIN_KEY: JOIN_KEY}, [PUBLISHED_AT, *(f.column for f in v.features)])
        for v in plans
    ]
    statement = select_vectors(lookups, {JOIN_KEY: "text"}).as_bytes()
    meaning = [(p.name, p.ttl_seconds, [f.name for f in p.features]) for p in plans]
    digest = hashlib.blake2b(repr((statement, meaning)).encode(), digest_size=6).hexdigest()
    return Service(spec.name, spec.description, tuple(plans), statement, digest)
