"""The app: `uvicorn serving.main:app`, or `python -m serving`, which also sets up workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import psycopg
from fastapi import FastAPI, Request, Response
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BeforeValidator
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from data.contract import MAX_CHARACTERS
from data.database import Database
from serving import metrics, schemas
from serving.gate import Gate
from serving.logs import set_up_logs
from serving.page_data import PageData, describe
from serving.problems import KINDS, TITLES, Problem
from serving.routes import Features, LeanRoute, ServiceName, decoded
from serving.settings import Settings
from serving.state import State

STATIC = Path(__file__).parent / "static"
UserIdPath = Annotated[
    str,
    BeforeValidator(decoded),
    PathParameter(
        pattern=schemas.USER_ID_PATTERN, max_length=MAX_CHARACTERS, examples=["7590-VHVEG"]
    ),
]


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {
        status: {
            "description": TITLES[status],
            "content": {"application/problem+json": {"schema": schema}},
        }
        for status in (401, 403, *statuses)
    }


def create_app(settings: Settings | None = None, database: Database | None = None) -> FastAPI:
    """An app of its own; settings come from the environment where none are given."""
    settings = settings or Settings()
    state = State(settings, database or Database())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        set_up_logs()
        await state.start()
        try:
            yield
        finally:
            await state.stop()

    app = FastAPI(
        title="StreamFlow features",
        version="1",
        description="The newest published features of each user, and where they come from.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load from elsewhere; /docs is the project's own
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.streamflow = state
    one = _add_feature_routes(app, state)
    _add_operations(app, state)
    _add_page(app, state)
    app.add_middleware(Gate, state=state, settings=settings, features=one)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _add_feature_routes(app: FastAPI, state: State) -> BaseRoute:
    """The routes of one user and of many; that of one, for the gate."""
    features = Features(state)
    app.router.add_api_route(
        "/features/{user_id}",
        features.one,
        methods=["GET"],
        tags=["features"],
        response_model=schemas.UserFeatures,
        responses=_problems(400, 404, 422, 503)
        | {304: {"description": "What the client has is current."}},
        route_class_override=LeanRoute,
    )
    one = app.router.routes[-1]
    app.router.add_api_route(
        "/features",
        features.many,
        methods=["POST"],
        tags=["features"],
        response_model=schemas.Results,
        responses=_problems(400, 404, 408, 413, 415, 422, 503),
        route_class_override=LeanRoute,
    )
    return one


def _add_operations(app: FastAPI, state: State) -> None:
    @app.get("/health", tags=["operation"], responses=_problems())
    async def health() -> schemas.Status:
        """The process works. Says nothing about the database."""
        return schemas.Status(status="ok")

    @app.get(
        "/ready",
        tags=["operation"],
        responses=_problems(503),
        response_model_exclude_none=True,
    )
    async def ready() -> schemas.Ready:
        """The registry is loaded and the online store answers; else, what is missing.

        `registry` says so when the stored one is damaged, and the one before it is served.
        """
        await state.ready()
        return schemas.Ready(status="ok", registry=state.damaged or None)

    @app.get(
        "/metrics",
        tags=["operation"],
        response_class=Response,
        responses=_problems() | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def prometheus() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(metrics.exposition(state), headers={"content-type": metrics.CONTENT_TYPE})

    @app.post("/-/reload", tags=["operation"], responses=_problems(408, 413, 503))
    async def reload() -> schemas.Reloaded:
        """Load registry, publications and API keys now, in the worker that answers.

        Every worker does so by itself within STREAMFLOW_API_REFRESH seconds (5).
        """
        await state.reload()
        if state.damaged:
            raise Problem(503, "registry-damaged", state.damaged)
        assert state.catalogue is not None  # or reload would have raised
        return schemas.Reloaded(registry_version=state.catalogue.version)

    @app.get("/catalogue", tags=["features"], responses=_problems(503))
    async def catalogue() -> schemas.CatalogueAnswer:
        """Feature services, their views and features, with meaning and unit."""
        return describe(state.loaded().catalogue, state.settings)


def _add_page(app: FastAPI, state: State) -> None:
    data = PageData(state)

    async def answer(work: Any) -> Any:
        try:
            return await work
        except psycopg.OperationalError:
            detail = "The database did not answer in time."
            raise Problem(503, "store-unavailable", detail) from None
        except psycopg.Error:
            detail = "The online tables do not fit the registry. Fill them: make materialize"
            raise Problem(503, "store-mismatch", detail) from None

    @app.get("/examples", tags=["page"], responses=_problems(404, 501, 503))
    async def examples() -> schemas.Examples:
        """A few user ids to try."""
        return schemas.Examples(**await answer(data.examples()))

    @app.get("/features/{user_id}/history", tags=["page"], responses=_problems(404, 422, 501, 503))
    async def history(user_id: UserIdPath, service: ServiceName = None) -> schemas.History:
        """A user's values at the last twelve as_of's, newest first, as published today.

        For people who look at a user. Not for training: a training set is exact about what was
        known when.
        """
        return schemas.History(**await answer(data.history(service, user_id)))

    @app.get("/distributions", tags=["page"], responses=_problems(404, 422, 501, 503))
    async def distributions(service: ServiceName = None) -> schemas.Distributions:
        """How each feature is distributed over all users online (of many users: a sample)."""
        return schemas.Distributions(**await answer(data.distributions(service)))

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "page.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(STATIC / "docs.html")

    app.mount("/static", StaticFiles(directory=STATIC))


async def _http_error(_: Request, error: Exception) -> Response:
    """Raise what Starlette found wrong with a path or method as a problem, for the gate."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        if "GET" in allowed and "HEAD" not in allowed:
            allowed += ", HEAD"  # the gate's doing
        detail = f"This path does not take that method. Allowed: {allowed}."
        raise Problem(405, "wrong-method", detail, [(b"allow", allowed.encode())])
    raise Problem(404, "unknown-path", "There is nothing at this path. See /docs.")


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    where = [{"at": ".".join(map(str, e["loc"])), "message": e["msg"]} for e in error.errors()]
    raise Problem(422, "bad-parameter", "A parameter is not what the API takes.", errors=where)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: FastAPI's, with the problems' shape and the ways to send a key."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
        )
        components = document["components"]
        components["schemas"]["ProblemDetails"] = schemas.ProblemDetails.model_json_schema()
        for unused in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(unused, None)
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        document["x-problems"] = KINDS
        # {}: on loopback no key need be configured
        document["security"] = [{"bearer": []}, {"header": []}, {}]
        app.openapi_schema = document
    return app.openapi_schema


app = create_app()
