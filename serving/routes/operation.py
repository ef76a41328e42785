"""Routes for whoever runs the API: is it well, what does it serve, how much."""

from __future__ import annotations

from fastapi import FastAPI, Response

from serving import metrics, schemas
from serving.problems import Problem, documented
from serving.routes.page_data import describe
from serving.state import State


def add(app: FastAPI, state: State) -> None:
    """Give the app these routes."""

    @app.get("/health", tags=["operation"], responses=documented())
    async def health() -> schemas.Status:
        """The process works. Says nothing about the database."""
        return schemas.Status(status="ok")

    @app.get(
        "/ready",
        tags=["operation"],
        responses=documented(503),
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
        responses=documented() | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def prometheus() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(metrics.exposition(state), headers={"content-type": metrics.CONTENT_TYPE})

    @app.post("/-/reload", tags=["operation"], responses=documented(408, 413, 503))
    async def reload() -> schemas.Reloaded:
        """Load registry, publications and API keys now, in the worker that answers.

        Every worker does so by itself within STREAMFLOW_API_REFRESH seconds (5).
        """
        await state.reload()
        if state.damaged:
            raise Problem(503, "registry-damaged", state.damaged)
        assert state.catalogue is not None  # or reload would have raised
        return schemas.Reloaded(registry_version=state.catalogue.version)

    @app.get("/catalogue", tags=["features"], responses=documented(503))
    async def catalogue() -> schemas.CatalogueAnswer:
        """Feature services, their views and features, with meaning and unit."""
        return describe(state.loaded().catalogue, state.settings)
