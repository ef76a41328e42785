"""The shapes of the catalogue's answers about features."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["value", "join key", "filter"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RawColumn(Strict):
    """A column of a drop's file, and what it is used for."""

    table: str
    column: str
    meaning: str
    unit: str
    kinds: list[Kind]


class FoundFeature(Strict):
    """A feature of the catalogue, in short."""

    view: str
    name: str
    on_demand: bool
    description: str
    unit: str
    type: str
    entity: str
    services: list[str]
    raw: Annotated[list[str], Field(description="Raw columns that go into it, as table.column.")]


class Found(Strict):
    """Features that were looked for."""

    total: int
    features: list[FoundFeature]


class Expression(Strict):
    name: str
    sql: Annotated[str, Field(description="SQL; of an on-demand feature, its function.")]


class Input(Strict):
    """A feature that an on-demand feature is computed from, with its own raw columns."""

    view: str
    name: str
    raw: list[RawColumn]


class Model(Strict):
    table: str
    model: str


class RequestInput(Strict):
    name: str
    type: str


class UsedIn(Strict):
    """A feature service that has it."""

    name: str
    field: Annotated[str, Field(description="Its name in answers and in training sets.")]
    description: str


class TrainingSet(Strict):
    """A training set that was written with it."""

    file: str
    service: str
    as_of: list[str]
    known_at: str | None
    rows: int | None


class Snapshot(Strict):
    """Its published values at one as_of."""

    as_of: str
    rows: int
    nulls: int
    mean: float | None
    quantiles: Annotated[list[float], Field(description="5, 25, 50, 75 and 95 %, of numbers.")]
    shares: Annotated[dict[str, float], Field(description="Of texts and booleans.")]


class FeatureDrift(Strict):
    """The newest as_of against the one before."""

    before: str
    as_of: str
    kind: Literal["number", "category"]
    unit: str
    rows_before: int
    rows: int
    nulls_before: int
    nulls: int
    mean_before: float | None
    mean: float | None
    both: int
    changed: Annotated[int, Field(description="Entities whose value differs.")]
    distance: Annotated[float, Field(description="Share that would have to change value.")]
    psi: float
    psi_band: str
    test: str
    p_value: float
    moved: bool
    bars: Annotated[
        list[tuple[str, float, float]], Field(description="Value, share before, share now.")
    ]


class TestResult(Strict):
    """A test of dbt's and what it last said."""

    name: str
    kind: str
    description: str
    status: str
    failures: int


class FeatureAnswer(Strict):
    """All that is known about a feature."""

    view: str
    name: str
    on_demand: bool
    description: str
    unit: str
    type: str
    owner: str
    entity: str
    keys: list[str]
    online_as_of: Annotated[str | None, Field(description="What is online, by the ledger.")]
    age_seconds: int | None
    services: list[UsedIn]
    described: Annotated[
        bool,
        Field(
            description="false: `make catalogue` has not run since it came; what follows is empty."
        ),
    ]
    publication: Annotated[str | None, Field(description="The known_at that is described.")]
    file: str
    expressions: list[Expression]
    raw: Annotated[list[RawColumn], Field(description="Columns of raw files that go into it.")]
    rows: Annotated[list[RawColumn], Field(description="Columns that decide which rows there are.")]
    models: list[Model]
    inputs: Annotated[list[Input], Field(description="Features it is computed from.")]
    request: Annotated[list[RequestInput], Field(description="What a request brings for it.")]
    computed: Annotated[list[str], Field(description="On-demand views computed from it.")]
    training_sets: list[TrainingSet]
    series: list[Snapshot]
    drift: FeatureDrift | None
    tests: list[TestResult]


EMPTY: dict[str, Any] = {
    "file": "", "expressions": [], "raw": [], "rows": [], "models": [], "inputs": [],
    "request": [], "computed": [], "training_sets": [], "series": [], "drift": None, "tests": [],
}  # fmt: skip
