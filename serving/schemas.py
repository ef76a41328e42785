"""The shapes of requests and answers, for validation of what comes in and for OpenAPI.

Answers are not made through these models (see `serving.answers`); the tests hold every answer to
the document that follows from them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    StringConstraints,
)

from data.contract import MAX_CHARACTERS, USER

MOST_IDS = 1000
USER_ID_PATTERN = f"^(?:{USER.pattern})$"
Key = StrictStr | StrictInt  # of an entity
Value = float | int | str | bool | list[Any] | dict[str, Any] | None
UserId = Annotated[str, StringConstraints(pattern=USER_ID_PATTERN, max_length=MAX_CHARACTERS)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Batch(_Model):
    """Body of POST /features."""

    user_ids: Annotated[
        list[UserId],
        Field(
            min_length=1,
            max_length=MOST_IDS,
            description="Answered in this order; repeated and unknown ids keep their places.",
            examples=[["7590-VHVEG", "5575-GNVDE"]],
        ),
    ]
    service: Annotated[
        str | None, Field(description="Feature service; the default one if absent.")
    ] = None
    on_missing: Annotated[
        Literal["null", "error"],
        Field(description="`error`: answer 404 if anything is not known about one of the users."),
    ] = "null"


class EntityBatch(_Model):
    """Body of POST /entities/features."""

    entities: Annotated[
        list[dict[str, Key | StrictFloat | StrictBool | None]],
        Field(
            min_length=1,
            max_length=MOST_IDS,
            description="Join key -> value, and what an on-demand feature needs; a row an entity, "
            "answered in this order.",
            examples=[[{"user_id": "7590-VHVEG"}]],
        ),
    ]
    service: Annotated[
        str | None, Field(description="Feature service; the default one if absent.")
    ] = None
    on_missing: Annotated[
        Literal["null", "error"],
        Field(description="`error`: answer 404 if nothing is known about one of them."),
    ] = "null"


class FeastRequest(BaseModel):
    """Body of POST /get-online-features, as Feast's feature server takes it."""

    entities: Annotated[
        dict[str, list[Key | StrictFloat | StrictBool | None]],
        Field(
            description="Join key, or what an on-demand feature needs -> values.",
            examples=[{"user_id": ["7590-VHVEG"]}],
        ),
    ]
    feature_service: str | None = None
    features: Annotated[
        list[str],
        Field(
            description="As `view:feature`, where no service is named.",
            examples=[["usage_features:watch_hours_30d"]],
        ),
    ] = []
    full_feature_names: bool = False
    include_feature_view_version_metadata: bool = False


class FeastColumn(_Model):
    """A join key or feature of every entity asked for."""

    values: list[Value]
    statuses: list[Literal["PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"]]
    event_timestamps: list[str]


class FeastResponse(_Model):
    """Answer of POST /get-online-features."""

    metadata: dict[str, list[str]]
    results: Annotated[list[FeastColumn], Field(description="A column each of feature_names.")]


class Origin(_Model):
    """Where the values of one feature view come from."""

    status: Annotated[
        Literal["found", "null", "unknown", "older_than_ttl"],
        Field(
            description="`found`; `null`: a row without any value; `unknown`: no row for this "
            "user; `older_than_ttl`: values are withheld, they are older than the view's ttl."
        ),
    ]
    as_of: Annotated[
        str | None, Field(description="The instant described: only what happened before it counts.")
    ]
    age_seconds: Annotated[int | None, Field(description="Now minus as_of.")]
    known_at: Annotated[str | None, Field(description="When this version was computed.")]
    invocation_id: Annotated[str | None, Field(description="The dbt invocation that published it.")]


class _Vector(_Model):
    found: Annotated[bool, Field(description="Whether any view knows the entity.")]
    service: str
    as_of: Annotated[str | None, Field(description="The oldest as_of among the views.")]
    features: Annotated[
        dict[str, Value],
        Field(description="By name. null: not known. 0: known that there was none."),
    ]
    views: dict[str, Origin]


class EntityFeatures(_Vector):
    """One entity's feature vector and where it comes from."""

    entity: Annotated[dict[str, Key], Field(description="Its join keys.")]


class EntityResults(_Model):
    """Answer of POST /entities/features."""

    results: list[EntityFeatures]


class UserFeatures(_Vector):
    """One user's feature vector and where it comes from."""

    user_id: str

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "user_id": "7590-VHVEG",
                    "found": True,
                    "service": "churn_v1",
                    "as_of": "2024-02-29T00:00:00Z",
                    "features": {"monthly_fee": 29.85, "failed_payments_90d": 0},
                    "views": {
                        "subscription_features": {
                            "status": "found",
                            "as_of": "2024-02-29T00:00:00Z",
                            "age_seconds": 43200,
                            "known_at": "2024-02-29T01:12:03.456789Z",
                            "invocation_id": "0bd0cd1f-6a3c-4a0a-8d5c-0a8e0a1c9d11",
                        }
                    },
                }
            ]
        },
    )


class Results(_Model):
    """Answer of POST /features."""

    results: list[UserFeatures]


class ProblemDetails(BaseModel):
    """Any answer other than success (RFC 9457)."""

    type: Annotated[str, Field(description="Stable identifier of the kind of problem.")]
    title: str
    status: int
    detail: str
    request_id: str | None = None

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "/docs#problem-store-unavailable",
                    "title": "Service unavailable",
                    "status": 503,
                    "detail": "The online store cannot be read at the moment.",
                    "request_id": "5f0c6a7f9f2e4d11",
                }
            ]
        },
    )


class FeatureDescription(_Model):
    name: str
    column: str
    type: str
    unit: str
    description: str
    lineage: Annotated[str, Field(description="Address of the view's model in dbt's docs.")]


class ViewDescription(_Model):
    name: str
    on_demand: Annotated[bool, Field(description="Computed at the request, from other features.")]
    description: str
    ttl_seconds: Annotated[float, Field(description="0: values do not expire.")]
    features: list[FeatureDescription]


class ServiceDescription(_Model):
    name: str
    description: str
    keys: Annotated[dict[str, str], Field(description="Join keys that it is asked by -> type.")]
    request: Annotated[
        dict[str, str], Field(description="What a request brings for on-demand features -> type.")
    ]
    views: list[ViewDescription]


class CatalogueAnswer(_Model):
    """What this API serves."""

    registry_version: int
    registry_updated_at: str
    default_service: str
    entities: Annotated[
        dict[str, dict[str, str]], Field(description="Entity -> its join keys -> type.")
    ]
    services: list[ServiceDescription]
    refused: Annotated[dict[str, str], Field(description="Services not served, and why.")]


class Status(_Model):
    """That the process works."""

    status: Literal["ok"]


class Ready(Status):
    """That the process answers; `registry` is there when the stored registry is damaged."""

    registry: str | None = None


class Reloaded(_Model):
    """The registry now in use."""

    registry_version: int


class Examples(_Model):
    """A few user ids, to try the API with."""

    user_ids: list[str]


class PastVector(_Model):
    as_of: str
    known_at: str
    features: dict[str, Value]


class History(_Model):
    """A user's values at earlier as_of's, newest first, as published today."""

    user_id: str
    views: dict[str, list[PastVector]]


class Distribution(_Model):
    """How a feature is distributed over the users online."""

    kind: Literal["number", "category"]
    users: Annotated[int, Field(description="How many were counted, nulls included.")]
    nulls: int
    low: float | None = None
    high: float | None = None
    below: Annotated[int, Field(description="Users under `low`.")] = 0
    above: Annotated[int, Field(description="Users over `high`.")] = 0
    counts: Annotated[list[int], Field(description="number: in equal steps from low to high.")]
    labels: Annotated[list[str], Field(description="category: value of each count.")] = []


class Distributions(_Model):
    """Distributions of a service's features, by name."""

    sampled: Annotated[bool, Field(description="Whether a random part of the users was counted.")]
    features: dict[str, Distribution]
