"""The catalogue of features, for people and programs: what there is, where it comes from, how it
is. A request reads what `make catalogue` kept, and counts nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import psycopg
from fastapi import FastAPI, Query, Response
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse

from serving.answers import UNIX_2000, instant
from serving.catalogue import Catalogue
from serving.feature_schemas import EMPTY, FeatureAnswer, Found, FoundFeature
from serving.lineage_svg import lineage_svg
from serving.problems import Problem, documented
from serving.state import State

STATIC = Path(__file__).parent.parent / "static"
Name = tuple[str, str]  # view and feature
Json = dict[str, Any]
FeatureName = Annotated[
    str,
    PathParameter(
        description="A feature's name, or view.feature where several views have one of that name.",
        max_length=200,
        examples=["watch_hours_30d"],
    ),
]


class Features:
    """The features of the registry with what is kept about them; read again when that changed."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._seen: tuple[object, ...] = ()
        self._all: dict[Name, Json] = {}

    async def all(self) -> Mapping[Name, Json]:
        """Every feature by view and name, in the order of the services.

        Raises:
            Problem: 503, there is no registry, or the database cannot be read.
        """
        catalogue = self._state.loaded().catalogue
        try:
            made_at = await self._made_at()
            seen = (catalogue.version, made_at)
            if seen != self._seen:
                kept = await self._kept() if made_at else {}
                self._all, self._seen = _merged(catalogue, kept), seen
        except psycopg.OperationalError:
            detail = "The database did not answer in time."
            raise Problem(503, "store-unavailable", detail) from None
        return self._all

    async def _made_at(self) -> datetime | None:
        try:
            [(made_at,)] = await self._state.page_link.fetch(
                "select max(made_at) from ledger.catalogue"
            )
        except psycopg.errors.UndefinedTable:  # set up by an earlier release
            return None
        return made_at

    async def _kept(self) -> dict[Name, Json]:
        rows = await self._state.page_link.fetch(
            "select view_name, feature, publication, document from ledger.catalogue"
        )
        return {
            (view, name): {**document, "publication": _text(publication), "described": True}
            for view, name, publication, document in rows
        }

    async def one(self, name: str) -> Json:
        """A feature by its name, or by view.feature (view:feature too).

        Raises:
            Problem: 404, there is none; 422, several views have one of that name.
        """
        features = await self.all()
        view, _, short = name.replace(":", ".").rpartition(".")
        found = [f for (v, n), f in features.items() if n == short and view in ("", v)]
        if not found:
            detail = f"There is no feature {name[:200]}. GET /search?q= finds those there are."
            raise Problem(404, "unknown-feature", detail)
        if len(found) > 1:
            views = " and ".join(f"{f['view']}.{short}" for f in found)
            detail = f"Several views have a feature {short}. Ask for one of {views}."
            raise Problem(422, "bad-parameter", detail)
        return {**found[0], **self._freshness(found[0])}

    def _freshness(self, feature: Json) -> Json:
        views = {source["view"] for source in feature["inputs"]} or {feature["view"]}
        online = [self._state.newest[view] for view in views if view in self._state.newest]
        if len(online) < len(views):
            return {"online_as_of": None, "age_seconds": None}
        age = time.time() - UNIX_2000 - min(online) / 1e6
        return {"online_as_of": instant(min(online)), "age_seconds": int(age)}


def _merged(catalogue: Catalogue, kept: Mapping[Name, Json]) -> dict[Name, Json]:
    """What the registry says of each feature, and beneath it what is kept."""
    found: dict[Name, Json] = {}
    for service in catalogue.services.values():
        used = {"name": service.name, "description": service.description}
        for view in service.views:
            for feature in view.answered:
                at = (view.name, feature.column)
                about = found.setdefault(at, {
                    "view": view.name, "name": feature.column, "on_demand": False,
                    "description": feature.description, "unit": feature.unit,
                    "type": feature.kind, "owner": view.proto.spec.owner,
                    "entity": view.proto.spec.tags.get("dbt_entity", ""),
                    "keys": list(view.keys), "services": [],
                })  # fmt: skip
                about["services"].append({**used, "field": feature.name})
        for name, column in service.computed:
            assert service.on_demand is not None
            [of] = [view for view in service.on_demand.views if view.name == name]
            [field] = [field for field in of.features if field.name == column]
            about = found.setdefault((name, column), {
                "view": name, "name": column, "on_demand": True,
                "description": field.description, "unit": field.tags.get("unit", ""),
                "type": field.dtype.to_value_type().name.lower(), "owner": of.owner,
                "entity": "", "keys": list(service.keys), "services": [],
            })  # fmt: skip
            about["services"].append({**used, "field": column})
    empty = {**EMPTY, "described": False, "publication": None}
    # (Of on-demand views the registry knows no entity, and Feast drops what their features mean.)
    return {
        at: {**empty, **about, **kept.get(at, {}), **{k: v for k, v in about.items() if v}}
        for at, about in found.items()
    }


def _text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def search(features: Mapping[Name, Json], words: str) -> list[Json]:
    """Features that have every word in their name, view, meaning, unit or raw columns; those that
    have them in the name first."""
    wanted = words.lower().split()
    ranked = []
    for feature in features.values():
        name = f"{feature['view']}.{feature['name']}".lower()
        raw = " ".join(f"{use['table']}.{use['column']}" for use in feature["raw"])
        services = " ".join(service["name"] for service in feature["services"])
        rest = f"{feature['description']} {feature['unit']} {raw} {services}".lower()
        if all(word in name or word in rest for word in wanted):
            ranked.append((sum(word not in feature["name"].lower() for word in wanted), feature))
    return [feature for _, feature in sorted(ranked, key=lambda found: found[0])]


def add(app: FastAPI, state: State) -> None:
    """Give the app these routes."""
    features = Features(state)

    @app.get("/search", tags=["catalogue"], responses=documented(422, 503))
    async def find(
        q: Annotated[
            str,
            Query(description="Words of a name, a meaning or a raw column.", max_length=200),
        ] = "",
    ) -> Found:
        """Features by name, meaning or raw column (`usage.watch_minutes`); all of them without
        words."""
        found = search(await features.all(), q)
        short = [
            FoundFeature(
                **{k: feature[k] for k in ("view", "name", "on_demand", "description", "unit")},
                type=feature["type"],
                entity=feature["entity"],
                services=[service["name"] for service in feature["services"]],
                raw=[f"{use['table']}.{use['column']}" for use in feature["raw"]],
            )
            for feature in found
        ]
        return Found(total=len(await features.all()), features=short)

    @app.get("/catalogue/{feature}", tags=["catalogue"], responses=documented(404, 422, 503))
    async def one(feature: FeatureName) -> FeatureAnswer:
        """A feature: meaning, unit, SQL, raw columns, values over time, drift, tests, users."""
        return FeatureAnswer(**await features.one(feature))

    @app.get(
        "/catalogue/{feature}/lineage.svg",
        tags=["catalogue"],
        response_class=Response,
        responses=documented(404, 422, 503)
        | {200: {"content": {"image/svg+xml": {"schema": {"type": "string"}}}}},
    )
    async def lineage(feature: FeatureName) -> Response:
        """Its lineage, drawn: from the columns of raw files to services."""
        drawn = lineage_svg(await features.one(feature))
        return Response(drawn, headers={"content-type": "image/svg+xml"})

    @app.get("/browse", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "browse.html")
