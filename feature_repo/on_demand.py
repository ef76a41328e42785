"""Features that are computed when they are asked for, from published ones and from the request.

Feast's own decorator, in Python mode: a function gets a list a column and gives a list a feature,
with None where there is no value. Each stands on its own, imports and annotations included: Feast
keeps its source, and runs that.
A feature service takes them by `meta.feast.on_demand: [name]` of its exposure.
"""

from feast import Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64

from streamflow_feast.on_demand import features


@on_demand_feature_view(
    sources=[
        features("subscription_features", "monthly_fee"),
        features("usage_features", "watch_hours_30d"),
    ],
    schema=[
        Field(
            name="fee_per_watch_hour",
            dtype=Float64,
            description="Monthly fee an hour watched in 30 days; null where nothing was watched.",
            tags={"unit": "currency/hour"},
        )
    ],
    mode="python",
    description="What an hour of watching costs a user.",
    owner="feature-platform",
)
def watch_cost(inputs: dict) -> dict:
    pairs = zip(inputs["monthly_fee"], inputs["watch_hours_30d"], strict=True)
    return {
        "fee_per_watch_hour": [
            fee / hours if fee is not None and hours else None for fee, hours in pairs
        ]
    }


@on_demand_feature_view(
    sources=[
        features("subscription_features", "monthly_fee"),
        RequestSource(name="offer", schema=[Field(name="offered_fee", dtype=Float64)]),
    ],
    schema=[
        Field(
            name="offered_discount",
            dtype=Float64,
            description="Part of the monthly fee that the request's offered_fee takes off.",
            tags={"unit": "ratio"},
        )
    ],
    mode="python",
    description="How an offer compares with what a user pays.",
    owner="feature-platform",
)
def offer_discount(inputs: dict) -> dict:
    pairs = zip(inputs["monthly_fee"], inputs["offered_fee"], strict=True)
    return {
        "offered_discount": [
            1 - offered / fee if fee and offered is not None else None for fee, offered in pairs
        ]
    }
