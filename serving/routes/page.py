"""The page for people, and what it asks for beside the vector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import psycopg
from fastapi import FastAPI
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BeforeValidator

from data.contract import MAX_CHARACTERS
from serving import schemas
from serving.problems import Problem, documented
from serving.routes.features import ServiceName, decoded
from serving.routes.page_data import PageData
from serving.state import State

STATIC = Path(__file__).parent.parent / "static"
UserIdPath = Annotated[
    str,
    BeforeValidator(decoded),
    PathParameter(
        max_length=MAX_CHARACTERS,
        examples=["7590-VHVEG"],
        json_schema_extra={"pattern": schemas.USER_ID_PATTERN},  # it is checked by `decoded`
    ),
]


def add(app: FastAPI, state: State) -> None:
    """Give the app these routes."""
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

    @app.get("/examples", tags=["page"], responses=documented(404, 501, 503))
    async def examples() -> schemas.Examples:
        """A few user ids to try."""
        return schemas.Examples(**await answer(data.examples()))

    @app.get("/features/{user_id}/history", tags=["page"], responses=documented(404, 422, 501, 503))
    async def history(user_id: UserIdPath, service: ServiceName = None) -> schemas.History:
        """A user's values at the last twelve as_of's, newest first, as published today.

        For people who look at a user. Not for training: a training set is exact about what was
        known when.
        """
        return schemas.History(**await answer(data.history(service, user_id)))

    @app.get("/distributions", tags=["page"], responses=documented(404, 422, 501, 503))
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
