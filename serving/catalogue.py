"""What can be served: Feast's registry, resolved into one SQL statement a feature service."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from operator import itemgetter
from typing import Any, NamedTuple

from feast import Field
from feast.protos.feast.core.FeatureView_pb2 import FeatureView as FeatureViewProto
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.value_type import ValueType

from streamflow_feast.dbt.types import KEY_TYPES
from streamflow_feast.on_demand import OnDemandFeatures, of_service
from streamflow_feast.online.read import Lookup, select_vectors
from streamflow_feast.views import type_of

Row = tuple[Any, ...]  # of a service's statement; the clocks are microseconds since 2000

PUBLISHED_AT = "published_at"  # when the row was written online: read like a feature
REMEMBERED = 100  # lists of features that were asked for
CLOCKS = 3  # a row has as_of, known_at and published_at of each view before its features


@dataclass(frozen=True)
class Feature:
    """One feature of a service. `name` is its key in answers, `column` its name in the view, `kind`
    its type in Postgres. A hidden one is read for on-demand features, and not answered."""

    name: str
    column: str
    type: str
    kind: str
    description: str
    unit: str
    hidden: bool = False


@dataclass(frozen=True)
class View:
    """One feature view of a service, with the features the service takes from it.

    `keys`: its join keys -> the columns of a request that hold them.
    """

    name: str
    shown: str  # its name in full feature names
    keys: Mapping[str, str]
    features: tuple[Feature, ...]  # as read: hidden ones too
    ttl_seconds: float  # 0: no expiry
    description: str
    lineage: str  # place of the dbt model in dbt's docs, "" where unknown
    first: int  # place of the view's first feature among the service's values
    proto: FeatureViewProto = field(repr=False, compare=False)

    @property
    def answered(self) -> tuple[Feature, ...]:
        """The features that are part of an answer."""
        return tuple(feature for feature in self.features if not feature.hidden)


@dataclass(frozen=True)
class Service:
    """A feature service, ready to be read.

    `statement` takes an array for each of `keys` (column of a request -> its type in Postgres), all
    of one length, and gives a row for each place, in order: for each view in turn as_of, known_at,
    published_at (null: unknown entity), then its features.
    """

    name: str
    description: str
    keys: Mapping[str, str]
    views: tuple[View, ...]
    statement: bytes
    digest: str  # changes with anything that can change an answer
    on_demand: OnDemandFeatures | None = field(default=None, repr=False, compare=False)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the features in the order of the statement's columns; as answered, or hidden."""
        return tuple(feature.name for view in self.views for feature in view.features)

    @cached_property
    def hidden(self) -> tuple[str, ...]:
        """Those of `names` that are no part of an answer."""
        return tuple(f.name for view in self.views for f in view.features if f.hidden)

    @cached_property
    def computed(self) -> tuple[tuple[str, str], ...]:
        """Its on-demand features: (view, name)."""
        if not self.on_demand:
            return ()
        return tuple(
            (view.name, column.name)
            for view in self.on_demand.views
            for column in view.features
            if column.name in self.on_demand.names
        )

    @cached_property
    def request(self) -> Mapping[str, str]:
        """What a request has to bring for the on-demand features: name -> Feast's type."""
        return self.on_demand.request if self.on_demand else {}

    @cached_property
    def of_other_form(self) -> dict[str, str]:
        """Features whose values are read in another form than they are answered in -> type."""
        other = ("timestamp with time zone", "jsonb")
        return {f.name: f.kind for view in self.views for f in view.features if f.kind in other}

    @cached_property
    def of_users(self) -> bool:
        """Whether its only key is that of the users."""
        return dict(self.keys) == {"user_id": "text"}

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
    entities: dict[str, Mapping[str, str]]  # entity -> its join keys and their types
    views: dict[str, FeatureViewProto] = field(repr=False)
    asked: dict[tuple[object, ...], Service] = field(default_factory=dict, repr=False)

    def of_features(self, references: Sequence[str]) -> Service:
        """What gives the features asked for as `view:feature`, in the order asked; remembered.

        Raises:
            UnknownFeatureError: a reference names no feature of the registry.
            RefusedError: they cannot be answered together, or there are none.
        """
        key = tuple(references)
        if key not in self.asked:
            if len(self.asked) >= REMEMBERED:
                self.asked.clear()
            self.asked[key] = self._of_features(references)
        return self.asked[key]

    def _of_features(self, references: Sequence[str]) -> Service:
        chosen: dict[str, list[str]] = {}
        for reference in references:
            view, _, feature = reference.partition(":")
            known = self.views.get(view)
            if not known or feature not in [c.name for c in known.spec.features]:
                raise UnknownFeatureError(reference)
            if feature not in chosen.setdefault(view, []):
                chosen[view].append(feature)
        taken = []
        for view, names in chosen.items():
            columns = {column.name: column for column in self.views[view].spec.features}
            taken.append(Taken(view, view, {}, [columns[name] for name in names]))
        return _service("", "", taken, self.views)


class UnknownFeatureError(KeyError):
    """A reference that names no feature of the registry."""


class Taken(NamedTuple):
    """What a service takes from a view: `renamed` are join keys -> columns of a request."""

    view: str
    shown: str
    renamed: Mapping[str, str]
    columns: Sequence[Any]


def read_catalogue(blob: bytes, project: str, version: int = 0) -> Catalogue:
    """The services of `project` in a serialised Feast registry."""
    registry = Registry.FromString(blob)
    views = {v.spec.name: v for v in registry.feature_views if v.spec.project == project}
    services: dict[str, Service] = {}
    refused: dict[str, str] = {}
    for proto in registry.feature_services:
        if proto.spec.project != project:
            continue
        taken = [
            Taken(
                p.feature_view_name,
                p.feature_view_name_alias or p.feature_view_name,
                p.join_key_map,
                p.feature_columns,
            )
            for p in proto.spec.features
        ]
        try:
            on_demand = of_service(registry, project, proto.spec.name)
            about = proto.spec.description
            services[proto.spec.name] = _service(proto.spec.name, about, taken, views, on_demand)
        except RefusedError as reason:
            refused[proto.spec.name] = str(reason)
    entities: dict[str, Mapping[str, str]] = {
        entity: keys
        for view in views.values()
        if (entity := _entity(view)) and (keys := _keys(view)) is not None
    }
    updated_at = registry.last_updated.ToDatetime(tzinfo=timezone.utc)
    return Catalogue(version, updated_at, services, refused, entities, views)


class RefusedError(Exception):
    """Why a feature service cannot be served from typed rows."""


def _entity(view: FeatureViewProto) -> str:
    """What a view's features are about: dbt's name of it, or else Feast's."""
    return view.spec.tags.get("dbt_entity") or "_".join(view.spec.entities)


def _keys(view: FeatureViewProto) -> dict[str, str] | None:
    """A view's join keys and their types; none where one has a type that no key can have."""
    kinds = {c.name: str(type_of(Field.from_proto(c))) for c in view.spec.entity_columns}
    return kinds if set(kinds.values()) <= set(KEY_TYPES) else None


def _service(
    service: str,
    about: str,
    taken: Sequence[Taken],
    known: Mapping[str, FeatureViewProto],
    on_demand: OnDemandFeatures | None = None,
) -> Service:
    computed = [view.name for view in on_demand.views] if on_demand else []
    taken = [part for part in taken if part.view not in computed]
    names = [column.name for part in taken for column in part.columns]
    twice = {name for name, times in Counter(names).items() if times > 1}
    inputs = {
        view: [name for name, _ in of]
        for view, of in (on_demand.inputs if on_demand else {}).items()
    }
    taken += [Taken(view, view, {}, []) for view in inputs if view not in [p.shown for p in taken]]
    views: list[View] = []
    columns: dict[str, str] = {}
    lookups: list[Lookup] = []
    for part in taken:
        view = known.get(part.view)
        if view is None:
            raise RefusedError(f"{part.view} is no plain feature view")
        kinds = _keys(view)
        if not kinds:
            raise RefusedError(f"{part.view} has no join key, or one that is no id")
        keys = {key: part.renamed.get(key, key) for key in kinds}
        for key, column in keys.items():
            if columns.setdefault(column, kinds[key]) != kinds[key]:
                raise RefusedError(f"{column} is of two types")
        answered = [c.name for c in part.columns]
        # Feast's own rule for full names, applied only where short ones collide
        features = [
            _feature(c, f"{part.shown}__{c.name}" if c.name in twice else c.name)
            for c in part.columns
        ]
        features += [
            _feature(c, f"{part.shown}:{c.name}", hidden=True)
            for c in view.spec.features
            if c.name in inputs.get(part.shown, ()) and c.name not in answered
        ]
        ttl = view.spec.ttl.ToTimedelta().total_seconds()
        model = view.spec.tags.get("dbt_model", "")
        views.append(
            View(
                name=part.view,
                shown=part.shown,
                keys=keys,
                features=tuple(features),
                ttl_seconds=ttl,
                description=view.spec.description,
                lineage=f"/#!/model/{model}?g_v=1" if model else "",
                first=sum(len(before.features) for before in views),
                proto=view,
            )
        )
        lookups.append(Lookup(part.view, keys, [PUBLISHED_AT, *(f.column for f in features)]))
    if not names and not on_demand:
        raise RefusedError("it has no features")
    if len({(lookup.view, *lookup.keys.values()) for lookup in lookups}) < len(lookups):
        raise RefusedError("it takes a feature view twice")
    statement = select_vectors(lookups, columns).as_bytes()
    meaning = [(v.shown, v.ttl_seconds, [(f.name, f.kind) for f in v.features]) for v in views]
    code = [v.feature_transformation.udf_string for v in on_demand.views] if on_demand else []
    digest = hashlib.blake2b(repr((statement, meaning, code)).encode(), digest_size=6).hexdigest()
    return Service(service, about, columns, tuple(views), statement, digest, on_demand)


def _feature(column: Any, name: str, *, hidden: bool = False) -> Feature:
    return Feature(
        name=name,
        column=column.name,
        type=ValueType(column.value_type).name.lower(),
        kind=str(type_of(Field.from_proto(column))),
        description=column.description,
        unit=column.tags.get("unit", ""),
        hidden=hidden,
    )
