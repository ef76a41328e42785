"""`POST /get-online-features`, as Feast's own feature server has it.

For Feast's remote online store, and whoever speaks with such a server already. Values come from the
same one read as all others.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

from fastapi import Body, FastAPI

from serving import metrics, schemas
from serving.answers import encode, entity, moment, on_demand
from serving.catalogue import CLOCKS, RefusedError, Row, Service, UnknownFeatureError
from serving.problems import Problem, documented
from serving.routes.features import JSON, response
from serving.routes.keys import columns, of_json, request_of
from serving.state import State
from streamflow_feast.online.read import status

NEVER = "1970-01-01T00:00:00Z"


def add(app: FastAPI, state: State) -> None:
    """Give the app this route."""

    @app.post(
        "/get-online-features",
        tags=["features"],
        responses=documented(400, 404, 408, 413, 415, 422, 503),
    )
    async def get_online_features(
        asked: Annotated[schemas.FeastRequest, Body()],
    ) -> schemas.FeastResponse:
        """The newest published features in the form of Feast's feature server: columns of values,
        statuses and event timestamps (as_of), a column a join key and a feature."""
        rows = _rows(asked.entities, state.settings.max_ids)
        keys: list[Sequence[Any]] = []
        given: list[dict[str, Any]] = []

        def choose() -> tuple[Any, Service]:
            if asked.feature_service:
                return state.service(asked.feature_service)
            answers = state.loaded()
            try:
                return answers, answers.catalogue.of_features(asked.features)
            except UnknownFeatureError as unknown:
                detail = f"There is no feature {str(unknown.args[0])[:200]}."
                raise Problem(404, "unknown-feature", detail) from None
            except RefusedError as refused:
                detail = f"Name a feature_service, or features that go together: {refused}."
                raise Problem(422, "bad-body", detail) from None

        def of(service: Service) -> Sequence[Sequence[Any]]:
            wanted = [{key: row[key] for key in service.keys if key in row} for row in rows]
            keys[:] = columns(service, wanted, of_json)
            given[:] = [request_of(service, row) for row in rows]
            return keys

        started = time.perf_counter()
        answers, service, found = await state.read(choose, of)
        metrics.STORE_SECONDS.observe(time.perf_counter() - started)
        metrics.count_users(service.name, len(rows), 0)
        body = encode(_body(service, asked, found, given))
        if (log := state.feature_log) is not None and service.name:
            for key, row, brought in zip(zip(*keys, strict=True), found, given, strict=True):
                if log.chosen():  # it is logged in the form of the other routes, from the same row
                    who = entity(dict(zip(service.keys, key, strict=True)))
                    log.take(service, answers.one(service, who, row, brought)[0], row, brought)
        return response(body, JSON)  # type: ignore[return-value]


def _rows(entities: dict[str, list[Any]], most: int) -> list[dict[str, Any]]:
    lengths = {len(values) for values in entities.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise Problem(422, "bad-keys", "entities: every join key has a list of the same length.")
    if max(lengths) > most:
        raise Problem(422, "too-many-ids", f"Ask for {most} at most.")
    return [dict(zip(entities, row, strict=True)) for row in zip(*entities.values(), strict=True)]


def _body(
    service: Service,
    asked: schemas.FeastRequest,
    rows: Sequence[Row],
    given: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Feast's answer of rows of a service's statement."""
    now = datetime.now(timezone.utc)
    names = [name for name in asked.entities if name not in service.request]
    results = [_present(asked.entities[name]) for name in names]
    inputs: list[dict[str, Any]] = [{} for _ in rows]
    for number, view in enumerate(service.views):
        start = view.first + CLOCKS * number
        as_ofs = [None if row[start] is None else moment(row[start]) for row in rows]
        stamps = [NEVER if as_of is None else _stamp(as_of) for as_of in as_ofs]
        ttl = timedelta(seconds=view.ttl_seconds) if view.ttl_seconds else None
        for place, feature in enumerate(view.features, start + CLOCKS):
            values, statuses = [], []
            for row, as_of, of_row in zip(rows, as_ofs, inputs, strict=True):
                told = status(row[place], as_of, ttl, now).value
                value = row[place] if told == "PRESENT" else None
                of_row[feature.name] = value
                statuses.append(told)
                values.append(_native(feature.kind, value))
            if feature.hidden:
                continue
            names.append(_name(view.shown, feature.column, asked.full_feature_names))
            results.append({"values": values, "statuses": statuses, "event_timestamps": stamps})
    if service.on_demand:
        made = on_demand(service, inputs, given)
        for shown, name in service.computed:
            names.append(_name(shown, name, asked.full_feature_names))
            results.append(_present([_native("", features[name]) for features in made]))
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        detail = f"{twice[0]} is asked for twice. Ask with full_feature_names."
        raise Problem(422, "bad-body", detail)
    return {"metadata": {"feature_names": names}, "results": results}


def _present(values: list[Any]) -> dict[str, Any]:
    """A join key's column, or that of an on-demand feature, as Feast has it: always present."""
    return {
        "values": values,
        "statuses": ["PRESENT"] * len(values),
        "event_timestamps": [NEVER] * len(values),
    }


def _name(view: str, column: str, full: bool) -> str:
    return f"{view}__{column}" if full else column


def _stamp(as_of: datetime) -> str:
    """As protobuf's JSON has it: no more digits than needed, in steps of three."""
    text = as_of.strftime("%Y-%m-%dT%H:%M:%S")
    if as_of.microsecond % 1000:
        return f"{text}.{as_of.microsecond:06}Z"
    return f"{text}.{as_of.microsecond // 1000:03}Z" if as_of.microsecond else f"{text}Z"


def _native(kind: str, value: Any) -> Any:
    """A value as Feast's server puts it into JSON, where that is not as in every other answer."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list):
        return [_native(kind, each) for each in value]
    if isinstance(value, datetime):
        return int(value.timestamp())
    if value is not None and kind == "timestamp with time zone":
        return int(moment(value).timestamp())
    if value is not None and kind == "date":
        return int(datetime(value.year, value.month, value.day, tzinfo=timezone.utc).timestamp())
    return value
