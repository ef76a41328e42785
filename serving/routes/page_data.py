"""What the page shows beside the vector: past values, and the distribution over all users.

Both are read when asked for, as the serving role: the past through the function `online.history`
(data/postgres/online.sql), distributions from the online tables, once after each publication.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple

from psycopg import sql

from serving.catalogue import Catalogue, Feature, Service
from serving.problems import Problem
from serving.routes.features import of_users
from serving.schemas import (
    CatalogueAnswer,
    FeatureDescription,
    ServiceDescription,
    ViewDescription,
)
from serving.settings import Settings
from serving.state import State

PAST = 12  # as_of's
COUNTED = 100_000  # users; of more, a random part is counted
FINE, COARSE = 400, 40  # steps of a histogram, as counted and as answered
TAIL = 0.005  # share of users at either end that may lie outside of the plot
CATEGORIES = 12

Json = dict[str, Any]


class PageData:
    """Answers for the page; distributions are remembered until the online tables change."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._lock = asyncio.Lock()
        self._distributions: dict[str, tuple[tuple[object, ...], Json]] = {}

    async def examples(self) -> Json:
        """A few users of the default service's first view, the first by id."""
        self._needs_own_store()
        _, service = self._state.service(None)
        rows = await self._state.page_link.fetch(
            sql.SQL("select user_id from {} order by user_id limit 5").format(
                sql.Identifier("online", service.views[0].name)
            )
        )
        return {"user_ids": [user_id for (user_id,) in rows]}

    async def history(self, name: str | None, user_id: str) -> Json:
        """A user's published values at the last as_of's, newest first."""
        self._needs_own_store()
        _, service = self._state.service(name)
        of_users(service, [user_id])
        views: dict[str, list[Json]] = {}
        for view in service.views:
            rows = await self._state.page_link.fetch(
                "select as_of, known_at, features from online.history(%s, %s, %s)",
                [view.name, json.dumps({"user_id": user_id}), PAST],
            )
            views[view.name] = [
                {
                    "as_of": _text(as_of),
                    "known_at": _text(known_at),
                    "features": {f.name: features.get(f.column) for f in view.answered},
                }
                for as_of, known_at, features in rows
            ]
        return {"user_id": user_id, "views": views}

    async def distributions(self, name: str | None) -> Json:
        """How each feature of a service is distributed over the users online."""
        self._needs_own_store()
        _, service = self._state.service(name)
        async with self._lock:  # the first after a publication counts, the others wait for it
            marker = self._state.marker
            remembered = self._distributions.get(service.name)
            if remembered is None or remembered[0] != (marker, service.digest):
                remembered = ((marker, service.digest), await self._count(service))
                self._distributions[service.name] = remembered
        return remembered[1]

    async def _count(self, service: Service) -> Json:
        users = max([await self._estimate(view.name) for view in service.views])
        sampled = users > COUNTED
        features: dict[str, Json] = {}
        for view in service.views:
            source = sql.Identifier("online", view.name)
            share = sql.Literal(100 * COUNTED / max(users, 1))
            # repeatable: both passes see the same users
            part = sql.SQL("{} tablesample bernoulli ({}) repeatable (1)").format(source, share)
            numbers = [f for f in view.answered if _is_number(f)]
            others = [f for f in view.answered if f.type in ("bool", "string")]
            relation = part if sampled else source
            features |= await self._numbers(relation, numbers)
            for feature in others:
                features[feature.name] = await self._categories(relation, feature)
        return {
            "sampled": sampled,
            "features": {n: features[n] for n in service.names if n in features},
        }

    async def _estimate(self, view: str) -> int:
        """About how many users are online, as the planner takes it from the table's size.

        Counting them takes seconds where they are many, and that is when it matters.
        """
        [(plan,)] = await self._state.page_link.fetch(
            sql.SQL("explain (format json) select from {}").format(sql.Identifier("online", view))
        )
        return int(plan[0]["Plan"]["Plan Rows"])

    async def _numbers(self, relation: sql.Composable, features: list[Feature]) -> dict[str, Json]:
        if not features:
            return {}
        finite = sql.SQL("nullif(nullif(nullif({0}::float8, 'NaN'), 'Infinity'), '-Infinity')")
        values = [finite.format(sql.Identifier(f.column)) for f in features]
        ends = sql.SQL(", ").join(
            sql.SQL("count({0}), min({0}), max({0})").format(value) for value in values
        )
        [row] = await self._state.page_link.fetch(
            sql.SQL("select count(*), {} from {}").format(ends, relation)
        )
        users = row[0]
        there = [row[1 + 3 * i] for i in range(len(features))]
        grids = [_grid(f.type, row[2 + 3 * i], row[3 + 3 * i]) for i, f in enumerate(features)]
        counts = [[0] * (grid.steps if grid else 0) for grid in grids]
        columns = sql.SQL(", ").join(
            sql.SQL("({}, {}, {}::float8, {}::float8, {})").format(i, values[i], *grid)
            for i, grid in enumerate(grids)
            if grid is not None
        )
        if any(grids):
            for i, step, users_there in await self._state.page_link.fetch(
                sql.SQL(
                    "select f.i, least(width_bucket(f.value, f.low, f.high, f.steps), f.steps), "
                    "count(*) from {} cross join lateral (values {}) as "
                    "f (i, value, low, high, steps) where f.value is not null group by 1, 2"
                ).format(relation, columns)
            ):
                counts[i][step - 1] = users_there
        return {
            feature.name: {
                "kind": "number",
                "users": users,
                "nulls": users - there[i],
                **(_plot(counts[i], grid, there[i]) if (grid := grids[i]) else {"counts": []}),
            }
            for i, feature in enumerate(features)
        }

    async def _categories(self, relation: sql.Composable, feature: Feature) -> Json:
        rows = await self._state.page_link.fetch(
            sql.SQL("select {0}::text, count(*) from {1} group by 1 order by 2 desc, 1").format(
                sql.Identifier(feature.column), relation
            )
        )
        present = [(label, count) for label, count in rows if label is not None]
        most, rest = present[:CATEGORIES], present[CATEGORIES:]
        if rest:
            most.append((f"{len(rest)} more", sum(count for _, count in rest)))
        return {
            "kind": "category",
            "users": sum(count for _, count in rows),
            "nulls": sum(count for label, count in rows if label is None),
            "counts": [count for _, count in most],
            "labels": [label for label, _ in most],
        }

    def _needs_own_store(self) -> None:
        if not self._state.own_store:
            raise Problem(
                501, "not-with-this-store", "Only the project's own online store keeps this."
            )


def describe(catalogue: Catalogue, settings: Settings) -> CatalogueAnswer:
    """All services, for people and for the page."""
    return CatalogueAnswer(
        registry_version=catalogue.version,
        registry_updated_at=_text(catalogue.updated_at),
        default_service=settings.service,
        refused=catalogue.refused,
        entities={name: dict(keys) for name, keys in catalogue.entities.items()},
        services=[
            ServiceDescription(
                name=service.name,
                description=service.description,
                keys=dict(service.keys),
                request=dict(service.request),
                views=[
                    ViewDescription(
                        name=view.name,
                        on_demand=False,
                        description=view.description,
                        ttl_seconds=view.ttl_seconds,
                        features=[
                            FeatureDescription(
                                name=feature.name,
                                column=feature.column,
                                type=feature.type,
                                unit=feature.unit,
                                description=feature.description,
                                lineage=settings.docs_url.rstrip("/") + view.lineage,
                            )
                            for feature in view.answered
                        ],
                    )
                    for view in service.views
                ]
                + _computed(service),
            )
            for service in catalogue.services.values()
        ],
    )


def _computed(service: Service) -> list[ViewDescription]:
    views = service.on_demand.views if service.on_demand else ()
    return [
        ViewDescription(
            name=view.name,
            on_demand=True,
            description=view.description,
            ttl_seconds=0,
            features=[
                FeatureDescription(
                    name=column.name,
                    column=column.name,
                    type=column.dtype.to_value_type().name.lower(),
                    unit=column.tags.get("unit", ""),
                    description=column.description,
                    lineage="",
                )
                for column in view.features
                if (view.name, column.name) in service.computed
            ],
        )
        for view in views
    ]


def _is_number(feature: Feature) -> bool:
    return feature.type in ("int32", "int64", "float", "double", "decimal")


def _text(moment: Any) -> str:
    return str(moment.isoformat()).replace("+00:00", "Z")


class _Grid(NamedTuple):
    low: float
    high: float
    steps: int


def _grid(kind: str, low: float | None, high: float | None) -> _Grid | None:
    """The steps to count values in that lie between `low` and `high`; None if there are none.

    Whole numbers get a step each while there are few of them, centred on the number.
    """
    if low is None or high is None:
        return None
    if kind in ("int32", "int64") and high - low < FINE:
        return _Grid(low - 0.5, high + 0.5, int(high - low) + 1)
    return _Grid(low, high, FINE) if low < high else _Grid(low - 0.5, high + 0.5, 1)


def _plot(fine: list[int], grid: _Grid, there: int) -> Json:
    """A histogram of at most COARSE steps around the bulk of the `there` users.

    At either end, steps are left out while no more than TAIL of the users lie in them together.
    """
    width = (grid.high - grid.low) / grid.steps
    start, end, allowed = 0, len(fine), int(there * TAIL)
    below = above = 0
    while end - start > 1 and below + fine[start] <= allowed:
        below += fine[start]
        start += 1
    while end - start > 1 and above + fine[end - 1] <= allowed:
        above += fine[end - 1]
        end -= 1
    joined = -(-(end - start) // COARSE)
    counts = [sum(fine[i : min(i + joined, end)]) for i in range(start, end, joined)]
    return {
        "low": grid.low + start * width,
        "high": grid.low + (start + joined * len(counts)) * width,
        "below": below,
        "above": above,
        "counts": counts,
    }
