"""Feast's response from rows of the online tables, with the statuses that Feast leaves out.

Feast's shared code knows PRESENT and NOT_FOUND; here a null is NULL_VALUE, and a row older than its
view's ttl is OUTSIDE_MAX_AGE, without its value, as in a training set.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

from feast import FeatureView
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import _get_entity_key_protos, _get_unique_entities
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]

from streamflow_feast.online.read import split_row, status
from streamflow_feast.tables import View
from streamflow_feast.views import from_value, to_value, view_of


class UserIdError(ValueError):
    """An id that nobody can have."""


class Asked(NamedTuple):
    """One feature view's part of a request; `rows` are the places of each user in the answer."""

    table: FeatureView
    view: View
    features: list[str]
    user_ids: list[str | None]
    rows: Sequence[list[int]]
    length: int


def user_id_of(key: EntityKey) -> str | None:
    """The key's user_id; None for a null, which is nobody's."""
    value = from_value(key.entity_values[0])
    if value is None:
        return None
    if "\0" in str(value):
        raise UserIdError(f"user_id {str(value)!r} has a NUL character, which no id can have")
    return str(value)


def asked_for(grouped_refs: list, join_key_values: dict, join_keys: dict) -> list[Asked]:
    """The parts of a request as Feast groups them."""
    asked = []
    for table, features in grouped_refs:
        entities, rows, length = _get_unique_entities(table, join_key_values, join_keys)
        user_ids = [user_id_of(key) for key in _get_entity_key_protos(entities)]
        asked.append(Asked(table, view_of(table), list(features), user_ids, rows, length))
    return asked


def together(asked: list[Asked]) -> tuple[dict[str, list[str]], list[str | None]]:
    """The arguments of one statement. All views have the one entity, so the same users; a view
    asked for under two aliases is read once, with the features of both."""
    views: dict[str, list[str]] = {}
    for part in asked:
        features = views.setdefault(part.view.name, [])
        features += [name for name in part.features if name not in features]
    return views, asked[0].user_ids


def fill(
    response: GetOnlineFeaturesResponse,
    asked: list[Asked],
    rows: list[tuple[Any, ...]],
    full_feature_names: bool,
    with_versions: bool,
) -> None:
    """Put values, statuses and event timestamps into Feast's response, a column a feature."""
    views = together(asked)[0] if asked else {}
    vectors = [dict(zip(views, split_row(row, views), strict=True)) for row in rows]
    now = datetime.now(timezone.utc)
    for part in asked:
        projection, kinds = part.table.projection, dict(part.view.columns)
        prefix = f"{projection.name_to_use()}__" if full_feature_names else ""
        response.metadata.feature_names.val.extend(prefix + name for name in part.features)
        if with_versions:
            name = projection.name_alias or projection.name
            if name not in [known.name for known in response.metadata.feature_view_metadata]:
                version = getattr(part.table, "current_version_number", 0) or 0
                response.metadata.feature_view_metadata.add(name=name, version=version)
        stamps = [_timestamp(vector[part.view.name].as_of) for vector in vectors]
        for feature in part.features:
            place = views[part.view.name].index(feature)
            values = [Value()] * part.length
            statuses = [FieldStatus.NOT_FOUND] * part.length
            times = [Timestamp()] * part.length
            for vector, stamp, destinations in zip(vectors, stamps, part.rows, strict=True):
                row = vector[part.view.name]
                value = row.values[place]
                found = status(value, row.as_of, part.view.ttl, now)
                if found.name != "PRESENT":
                    value = None
                for destination in destinations:
                    values[destination] = to_value(kinds[feature], value)
                    statuses[destination] = FieldStatus.Value(found.name)
                    times[destination] = stamp
            response.results.add(values=values, statuses=statuses, event_timestamps=times)


def _timestamp(as_of: datetime | None) -> Timestamp:
    stamp = Timestamp()
    if as_of is not None:
        stamp.FromDatetime(as_of)
    return stamp
