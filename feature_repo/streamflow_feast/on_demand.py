"""On-demand feature views: computed from features and from the request, when they are asked for.

They are written with Feast's own decorator, in Python mode, in `feature_repo/on_demand.py`. One
function, `transform`, computes them for training sets and for the API, as Feast itself does for
`get_online_features`: the same code gets the same Python values, whatever the path.
See docs/decisions/0111-on-demand.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Any
from uuid import UUID

from feast import Field
from feast.feature_view_projection import FeatureViewProjection
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
from feast.types import String

from streamflow_feast.dbt.manifest import Manifest, read_manifest
from streamflow_feast.views import feature_field, type_of

_manifest: ContextVar[Manifest | None] = ContextVar("manifest", default=None)


class OnDemandError(ValueError):
    """An on-demand feature view cannot be computed; names it and what is wrong."""


@contextmanager
def reading(manifest: Manifest) -> Iterator[None]:
    """Inside, `features` takes its types from this manifest, and not from the project's."""
    token = _manifest.set(manifest)
    try:
        yield
    finally:
        _manifest.reset(token)


def features(table: str, *names: str) -> FeatureViewProjection:
    """Some features of a feature table, as a source of an on-demand feature view.

    What is not published (yet) may be named: the view is then left out, and said so, when the
    definitions are applied.
    """
    there = {table.name: table for table in (_manifest.get() or read_manifest()).tables}
    columns = {column.name: column for column in there[table].columns} if table in there else {}
    return FeatureViewProjection(
        name=table,
        name_alias=None,
        desired_features=[],
        features=[
            feature_field(columns[name]) if name in columns else Field(name=name, dtype=String)
            for name in names
        ],
    )


def transform(
    view: OnDemandFeatureView, inputs: Mapping[str, Sequence[Any]], length: int
) -> dict[str, list[Value]]:
    """The view's features for `length` rows, from columns of its inputs by their names.

    Raises:
        OnDemandError: its function fails, or does not give one fitting value a row and feature.
    """
    columns = {name: list(values) for name, values in inputs.items()}
    try:
        found = view.feature_transformation.udf(columns)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise OnDemandError(f"on-demand view {view.name}: {what}") from error
    answers = {}
    for field in view.features:
        values = found.get(field.name) if isinstance(found, Mapping) else None
        if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != length:
            raise OnDemandError(
                f"on-demand view {view.name}: {field.name} has to be a list of one value a row "
                f"({length}), and is {values!r:.100}"
            )
        try:
            answers[field.name] = python_values_to_proto_values(
                list(values), field.dtype.to_value_type()
            )
        except Exception as error:
            raise OnDemandError(
                f"on-demand view {view.name}: {field.name} is no {field.dtype}: {error}"
            ) from error
    return answers


def try_out(view: OnDemandFeatureView) -> None:
    """Run the view's function on a row without any value, which every function will meet.

    In place of Feast's own trial, which has no sample of a Decimal or of JSON.

    Raises:
        OnDemandError: it fails, for example because it reads what is no source of the view.
    """
    try:
        transform(view, inputs_of(view, lambda *_: [None], lambda _: [None]), 1)
    except OnDemandError as error:
        raise OnDemandError(
            f"{error}. This was a trial with None for each of its inputs, as for an entity without "
            "values; a function reads only the sources of its view"
        ) from error


def inputs_of(
    view: OnDemandFeatureView,
    feature: Callable[[str, str], Iterable[Any]],
    given: Callable[[str], Iterable[Any]],
) -> dict[str, list[Any]]:
    """The columns that a view's function gets. `feature` gives a column by feature view (or its
    alias) and name, `given` one of the request."""
    columns = {name: list(given(name)) for name in request_of(view)}
    for projection in view.source_feature_view_projections.values():
        for field in projection.features:
            kind = str(type_of(field))
            values = [as_feast(kind, v) for v in feature(projection.name_to_use(), field.name)]
            columns[field.name] = columns[f"{projection.name}__{field.name}"] = values
    return columns


def as_feast(kind: str, value: Any) -> Any:
    """A feature's value as Feast hands it to a function: a date is its midnight in UTC, jsonb is
    parsed. `value` is as psycopg or Arrow gives it."""
    if value is None:
        return None
    if kind == "jsonb":
        return json.loads(value)
    if kind == "uuid":
        return value if isinstance(value, UUID) else UUID(value)
    if kind == "date" and not isinstance(value, datetime):
        assert isinstance(value, date)
        return datetime(value.year, value.month, value.day, tzinfo=timezone.utc)
    if kind == "timestamp with time zone":
        return value.replace(microsecond=0).astimezone(timezone.utc)
    return value


@dataclass(frozen=True)
class OnDemandFeatures:
    """The on-demand features of a feature service, ready to be computed.

    `inputs` are feature views -> (feature, contract type) that have to be read for them, whether
    the service names them or not; `request` is the name -> Feast type of what a request brings.
    """

    views: tuple[OnDemandFeatureView, ...]
    names: tuple[str, ...]  # in the service's order
    inputs: Mapping[str, tuple[tuple[str, str], ...]]
    request: Mapping[str, str]

    def compute(
        self, vectors: Sequence[Mapping[str, Any]], request: Sequence[Mapping[str, Any]] = ()
    ) -> list[dict[str, Any]]:
        """name -> Python value for every row.

        `vectors` has a mapping a row: "view:feature" -> the value as the online table has it, None
        where there is none. `request` has one a row as well, or is left out.

        Raises:
            OnDemandError: something that the request has to bring is missing; or see `transform`.
        """
        given = request or [{}] * len(vectors)
        for name in self.request:
            if any(name not in row for row in given):
                raise OnDemandError(
                    f"{name} is missing in the request, which has to bring "
                    f"{', '.join(self.request)}"
                )
        rows: list[dict[str, Any]] = [{} for _ in vectors]
        for view in self.views:
            columns = inputs_of(
                view,
                lambda source, name: [vector.get(f"{source}:{name}") for vector in vectors],
                lambda name: [row[name] for row in given],
            )
            for name, answers in transform(view, columns, len(vectors)).items():
                if name in self.names:
                    for row, value in zip(rows, answers, strict=True):
                        row[name] = feast_value_type_to_python_type(value)
        return rows


def request_of(view: OnDemandFeatureView) -> dict[str, str]:
    """What a request has to bring for a view: name -> Feast type."""
    return {
        field.name: str(field.dtype)
        for source in view.source_request_sources.values()
        for field in source.schema
    }


def of_service(registry: Registry, project: str, service: str) -> OnDemandFeatures | None:
    """The on-demand features of a service in a serialized registry; None if it has none."""
    protos = {
        view.spec.name: view
        for view in registry.on_demand_feature_views
        if view.spec.project == project
    }
    for found in registry.feature_services:
        if (found.spec.project, found.spec.name) == (project, service):
            chosen = [part for part in found.spec.features if part.feature_view_name in protos]
            break
    else:
        return None
    if not chosen:
        return None
    views = tuple(OnDemandFeatureView.from_proto(protos[part.feature_view_name]) for part in chosen)
    inputs: dict[str, dict[str, str]] = {}
    for view in views:
        for projection in view.source_feature_view_projections.values():
            of_view = inputs.setdefault(projection.name, {})
            of_view |= {field.name: str(type_of(field)) for field in projection.features}
    return OnDemandFeatures(
        views,
        tuple(column.name for part in chosen for column in part.feature_columns),
        {view: tuple(columns.items()) for view, columns in inputs.items()},
        {name: kind for view in views for name, kind in request_of(view).items()},
    )
