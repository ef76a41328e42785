"""From dbt's features on: feature views, on-demand views, services, training sets, the API."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from feast import FeatureService, FeatureView
from feast.on_demand_feature_view import OnDemandFeatureView

from streamflow_feast.dbt.feast_objects import feast_objects
from streamflow_feast.dbt.manifest import Manifest, parse_manifest
from streamflow_feast.on_demand import request_of


@dataclass(frozen=True)
class Computed:
    """An on-demand feature view: what it is made from, (view, feature) and names of the request."""

    name: str
    description: str
    owner: str
    code: str
    features: tuple[Any, ...]  # Feast's fields
    inputs: tuple[tuple[str, str], ...]
    request: Mapping[str, str]


@dataclass(frozen=True)
class Served:
    """What Feast makes of a manifest: `services` are name -> (view, feature, field of the answer);
    the field is the column of a training set, too."""

    manifest: Manifest
    computed: Mapping[str, Computed]
    services: Mapping[str, tuple[tuple[str, str, str], ...]]

    def used_in(self, view: str, feature: str) -> Iterator[tuple[str, str]]:
        """(service, field) where a feature is asked for by name."""
        for service, parts in self.services.items():
            for part, name, field in parts:
                if (part, name) == (view, feature):
                    yield service, field

    def made_from(self, view: str, feature: str) -> list[str]:
        """The on-demand views that a feature goes into."""
        return [c.name for c in self.computed.values() if (view, feature) in c.inputs]


def read_served(content: Mapping[str, Any]) -> Served:
    """What `feast apply` would make of dbt's manifest. Raises ManifestError."""
    manifest = parse_manifest(content)
    objects = feast_objects(manifest)
    computed = {
        name: _computed(thing)
        for name, thing in objects.items()
        if isinstance(thing, OnDemandFeatureView)
    }
    services = {
        name: _fields(thing, objects)
        for name, thing in objects.items()
        if isinstance(thing, FeatureService)
    }
    return Served(manifest, computed, services)


def _computed(view: OnDemandFeatureView) -> Computed:
    inputs = [
        (projection.name, field.name)
        for projection in view.source_feature_view_projections.values()
        for field in projection.features
    ]
    return Computed(
        view.name,
        view.description,
        view.owner,
        view.feature_transformation.udf_string,
        tuple(view.features),
        tuple(inputs),
        request_of(view),
    )


def _fields(
    service: FeatureService, objects: Mapping[str, Any]
) -> tuple[tuple[str, str, str], ...]:
    """By the API's rule: a name that two views have is written in full."""
    parts = [
        (projection.name, projection.name_to_use(), feature.name)
        for projection in service.feature_view_projections
        for feature in projection.features
    ]
    plain = [name for view, _, name in parts if isinstance(objects[view], FeatureView)]
    twice = {name for name, times in Counter(plain).items() if times > 1}
    return tuple(
        (view, name, f"{shown}__{name}" if name in twice else name) for view, shown, name in parts
    )
