"""Feast's response from rows of the online tables, with the statuses that Feast leaves out.

Feast's shared code knows PRESENT and NOT_FOUND; here a null is NULL_VALUE, and a row older than its
view's ttl is OUTSIDE_MAX_AGE, without its value, as in a training set.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, NamedTuple
from uuid import UUID

from feast import FeatureService, FeatureView
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]

from streamflow_feast.kinds import to_value
from streamflow_feast.online.read import Lookup, split_row, status
from streamflow_feast.tables import View
from streamflow_feast.views import view_of


class JoinKeyError(ValueError):
    """A join key that is missing in a request, or a value that none can have."""


class Asked(NamedTuple):
    """One feature view's part of a request."""

    table: FeatureView
    view: View
    lookup: Lookup


class Request(NamedTuple):
    """What a request asks: `columns` of join keys with their types, the distinct `keys` as one list
    of values a column, and for each of them its `places` among the `length` rows of the answer."""

    asked: list[Asked]
    columns: dict[str, str]
    keys: list[list[Any]]
    places: list[list[int]]
    length: int

    @property
    def lookups(self) -> list[Lookup]:
        """What is wanted of each view."""
        return [part.lookup for part in self.asked]


def key_value(key: str, kind: str, value: Value) -> Any:
    """A join key's value; None for a null, which is nobody's.

    Raises:
        JoinKeyError: no entity can have it.
    """
    found = getattr(value, field) if (field := value.WhichOneof("val")) else None
    if found is None or field == "null_val":
        return None
    try:
        if kind == "bigint":
            if not isinstance(found, int) or not -(2**63) <= found < 2**63:
                raise ValueError
            return found
        if kind == "uuid":
            return UUID(found)
    except (ValueError, AttributeError, TypeError):
        raise JoinKeyError(f"{key} {found!r} is no {kind}") from None
    if "\0" in str(found):
        raise JoinKeyError(f"{key} {str(found)!r} has a NUL character, which no id can have")
    return str(found)


def asked_for(grouped_refs: list, join_key_values: dict) -> Request:
    """A request as Feast groups it, with every distinct row of join keys once.

    Raises:
        JoinKeyError: a join key of one of the views is missing, or a value that none can have.
    """
    asked: list[Asked] = []
    columns: dict[str, str] = {}
    for table, features in grouped_refs:
        view, renamed = view_of(table), table.projection.join_key_map
        keys = {key: renamed.get(key, key) for key in view.key_names}
        for key, kind in view.keys:
            if keys[key] not in join_key_values:
                raise JoinKeyError(
                    f"{keys[key]} is missing in the request; {view.name} is found by "
                    f"{', '.join(keys.values())}, and the request has "
                    f"{', '.join(join_key_values) or 'no join key'}"
                )
            columns[keys[key]] = kind
        asked.append(Asked(table, view, Lookup(view.name, keys, list(features))))
    rows = zip(
        *(
            [key_value(column, kind, value) for value in join_key_values[column]]
            for column, kind in columns.items()
        ),
        strict=True,
    )
    places: dict[tuple[Any, ...], list[int]] = {}
    length = 0
    for row in rows:
        places.setdefault(row, []).append(length)
        length += 1
    keys_of = [list(column) for column in zip(*places, strict=True)] or [[] for _ in columns]
    return Request(asked, columns, keys_of, list(places.values()), length)


def fill(
    response: GetOnlineFeaturesResponse,
    request: Request,
    rows: list[tuple[Any, ...]],
    full_feature_names: bool,
    with_versions: bool,
) -> None:
    """Put values, statuses and event timestamps into Feast's response, a column a feature."""
    lookups = request.lookups
    vectors = [split_row(row, lookups) for row in rows]
    now = datetime.now(timezone.utc)
    for number, part in enumerate(request.asked):
        projection, kinds = part.table.projection, dict(part.view.columns)
        prefix = f"{projection.name_to_use()}__" if full_feature_names else ""
        features = part.lookup.features
        response.metadata.feature_names.val.extend(prefix + name for name in features)
        if with_versions:
            name = projection.name_alias or projection.name
            if name not in [known.name for known in response.metadata.feature_view_metadata]:
                version = getattr(part.table, "current_version_number", 0) or 0
                response.metadata.feature_view_metadata.add(name=name, version=version)
        stamps = [_timestamp(vector[number].as_of) for vector in vectors]
        for place, feature in enumerate(features):
            values = [Value()] * request.length
            statuses = [FieldStatus.NOT_FOUND] * request.length
            times = [Timestamp()] * request.length
            for vector, stamp, destinations in zip(vectors, stamps, request.places, strict=True):
                row = vector[number]
                value = row.values[place]
                found = status(value, row.as_of, part.view.ttl, now)
                if found.name != "PRESENT":
                    value = None
                answered = to_value(kinds[feature], value)
                for destination in destinations:
                    values[destination] = answered
                    statuses[destination] = FieldStatus.Value(found.name)
                    times[destination] = stamp
            response.results.add(values=values, statuses=statuses, event_timestamps=times)


def left_out(features: list[str] | FeatureService, response: OnlineResponse) -> list[str]:
    """What was asked for and is not in an answer with full names."""
    asked = features
    if isinstance(features, FeatureService):
        asked = [
            f"{projection.name_to_use()}:{feature.name}"
            for projection in features.feature_view_projections
            for feature in projection.features
        ]
    there = set(response.proto.metadata.feature_names.val)
    return [ref for ref in asked if ref.replace(":", "__", 1) not in there]


def add_full_names(response: OnlineResponse, short: OnlineResponse, refs: list[str]) -> None:
    """Put the features `refs` of an answer with short names into one with full names."""
    found = dict(zip(short.proto.metadata.feature_names.val, short.proto.results, strict=True))
    for ref in refs:
        response.proto.metadata.feature_names.val.append(ref.replace(":", "__", 1))
        response.proto.results.append(found[ref.partition(":")[2]])


def _timestamp(as_of: datetime | None) -> Timestamp:
    stamp = Timestamp()
    if as_of is not None:
        stamp.FromDatetime(as_of)
    return stamp
