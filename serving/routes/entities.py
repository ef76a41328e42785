"""Features of any entity: one by its keys, or many at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import Body, FastAPI, Path, Query, Request, Response

from serving import metrics, schemas
from serving.answers import entity
from serving.catalogue import Service
from serving.problems import Problem, documented
from serving.routes.features import (
    CACHING,
    UNKEPT,
    Made,
    ServiceName,
    count,
    make,
    response,
    results,
)
from serving.routes.keys import columns, of_json, of_text, request_of, service_of
from serving.state import State

NOT_KEYS = ("service", "on_missing")


async def answers_about(
    state: State, name: str | None, rows: Sequence[Mapping[str, Any]], read: Callable[..., Any]
) -> tuple[Service, list[Made]]:
    """An answer for each row of keys, in order."""
    started = time.perf_counter()
    asked: list[Any] = []

    def keys(service: Service) -> Any:
        asked[:] = columns(service, rows, read)
        return asked

    answers, service, found = await state.read(lambda: state.service(name), keys)
    metrics.STORE_SECONDS.observe(time.perf_counter() - started)
    who = [entity(dict(zip(service.keys, key, strict=True))) for key in zip(*asked, strict=True)]
    brought = [request_of(service, row, texts=read is of_text) for row in rows]
    parts = list(zip(who, found, brought, strict=True))
    return service, await make(state, answers, service, parts)


def add(app: FastAPI, state: State) -> None:
    """Give the app these routes."""

    @app.get(
        "/entities/{entity}/features",
        tags=["features"],
        response_model=schemas.EntityFeatures,
        responses=documented(400, 404, 422, 503),
        openapi_extra={"parameters": [KEYS]},
    )
    async def one(
        request: Request,
        entity: Annotated[str, Path(description="See GET /catalogue.", examples=["device"])],
        service: ServiceName = None,
        on_missing: Annotated[
            Literal["null", "error"],
            Query(description="`error`: answer 404 if nothing is known about the entity."),
        ] = "null",
    ) -> Response:
        """The newest published features of one entity, named by its join keys in the query:
        `/entities/user_device/features?user_id=7590-VHVEG&device_id=d1`.

        Without `service`, the only one that has exactly these keys.
        """
        pairs = [p for p in request.query_params.multi_items() if p[0] not in NOT_KEYS]
        row = dict(pairs)
        if len(row) < len(pairs):
            raise Problem(422, "bad-parameter", "A query parameter is given twice.")
        catalogue, settings = state.loaded().catalogue, state.settings
        name = service_of(catalogue, entity, service, settings.service)
        plan, [(body, origin)] = await answers_about(state, name, [row], of_text)
        _require_known(request, plan, [(body, origin)], on_missing, [row])
        return response(body, [*CACHING, (b"etag", origin.etag)] if origin.etag else CACHING)

    @app.post(
        "/entities/features",
        tags=["features"],
        response_model=schemas.EntityResults,
        responses=documented(400, 404, 408, 413, 415, 422, 503),
    )
    async def many(request: Request, batch: Annotated[schemas.EntityBatch, Body()]) -> Response:
        """The same for up to 1,000 entities of a feature service, in the order asked, unknown ones
        in place."""
        if len(batch.entities) > state.settings.max_ids:
            raise Problem(422, "too-many-ids", f"Ask for {state.settings.max_ids} at most.")
        plan, made = await answers_about(state, batch.service, batch.entities, of_json)
        _require_known(request, plan, made, batch.on_missing, batch.entities)
        return response(results(made), UNKEPT)


def _require_known(
    request: Request,
    service: Service,
    made: Sequence[Made],
    on_missing: str,
    rows: Sequence[Mapping[str, Any]],
) -> None:
    unknown = count(request, service, rows, made)
    if unknown and on_missing == "error":
        detail = f"Nothing is known about {len(unknown)} of the {len(made)} asked for."
        raise Problem(404, "unknown-entity", detail, entities=unknown)


KEYS = {
    "name": "keys",
    "in": "query",
    "description": "The entity's join keys, each a parameter of its own name (GET /catalogue).",
    "required": True,
    "style": "form",
    "explode": True,
    "schema": {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1},
    "example": {"user_id": "7590-VHVEG", "device_id": "d1"},
}
