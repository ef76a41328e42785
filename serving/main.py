"""The app: `uvicorn serving.main:app`, or `python -m serving`, which also sets up workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException

from data.database import Database
from serving import schemas
from serving.gate import Gate
from serving.logs import set_up_logs
from serving.problems import KINDS, Problem
from serving.routes import browse, entities, feast_form, features, operation, page
from serving.settings import Settings
from serving.state import State


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
    one = features.add(app, state)
    entities.add(app, state)
    feast_form.add(app, state)
    operation.add(app, state)
    page.add(app, state)
    browse.add(app, state)
    app.add_middleware(Gate, state=state, settings=settings, features=one)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


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
