"""Tables, entities and types that StreamFlow does not have: declared, they are built like its own.

If this fails, somebody else's table needs an edit in the machinery, or what arrives late in it is
not noticed: the values of a build would depend on when it ran.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.dbt import builds
from tests.dbt.builds import execute, rows
from tests.dbt.conftest import Built

DECLARED = """
      - name: plans
        description: Plans, one row a plan and drop.
        config: {freshness: null, meta: {grain: state, key: [plan_id]}}
      - name: ratings
        description: Ratings of plans, one row a rating.
        config: {meta: {grain: event, key: [rating_id], event_time: rated_at}}
"""
CLOCKS = "as_of timestamptz, load_id bigint, loaded_at timestamptz, superseded_by bigint"
TABLES = [
    f"create table raw.plans (plan_id bigint, price numeric(9,2), {CLOCKS})",
    "create table raw.ratings (rating_id text, user_id text, plan_id bigint, stars bigint,"
    f" rated_at timestamptz, {CLOCKS})",
]
SQL = {
    "staging/stg_plans": "select plan_id, as_of, price, load_id from {{ source('raw', 'plans') }}"
    " where {{ in_effect() }}",
    "staging/stg_ratings": "select rating_id, user_id, plan_id, stars, rated_at, load_id"
    " from {{ source('raw', 'ratings') }} where {{ in_effect() }}",
    # listed by a state, without a date since when; and seen in events ever since
    "intermediate/spine_plan": "{{ spine_from_state(entity='plan', table='plans') }}",
    "intermediate/changes_plan": "{{ changes('plan') }}",
    "intermediate/spine_rater": "{{ spine_from_events('rater', ['ratings'], 'all') }}",
    "intermediate/changes_rater": "{{ changes('rater') }}",
    "features/plan_features": """
{% set ratings = events('ratings', at='rated_at', reach_days='all') %}
with pairs as ({{ pairs_to_compute(entity='plan', events=[ratings], states=['plans']) }}),
measured as (
    select pairs.*, windows.* from pairs cross join lateral (
        select
            count(*) as ever,
            sum(stars) filter (where {{ ratings.window(30) }}) as stars_30d
        from {{ ratings.relation }} as ratings
        where ratings.plan_id = pairs.plan_id and {{ ratings.window('all') }}
    ) as windows where pairs.in_spine
),
final as (
    select
        measured.plan_id, measured.as_of, plans.price,
        case when {{ ratings.covered('all') }} then measured.ever end as ratings_ever,
        case when {{ ratings.covered(30) }} then cast(measured.stars_30d as bigint) end as stars_30d
    from measured
    left join {{ ref('stg_plans') }} as plans
        on measured.plan_id = plans.plan_id and measured.state_as_of = plans.as_of
),
{{ versions('final', 'pairs') }}
""",
    "features/rater_features": """
{% set ratings = events('ratings', at='rated_at', reach_days=60, by=['plan_id']) %}
with pairs as (
    {{ pairs_to_compute(entity='rater', events=[ratings], latest=['plans']) }}
),
measured as (
    select pairs.*, windows.* from pairs cross join lateral (
        select count(distinct user_id) as raters_60d from {{ ratings.relation }} as ratings
        where ratings.plan_id = pairs.plan_id and {{ ratings.window(60) }}
    ) as windows where pairs.in_spine
),
final as (
    select
        measured.plan_id, measured.user_id, measured.as_of, measured.raters_60d,
        plans.price as newest_price
    from measured
    left join {{ ref('stg_plans') }} as plans
        on measured.plan_id = plans.plan_id and measured.plans_as_of = plans.as_of
),
{{ versions('final', 'pairs') }}
""",
}
RATER = {"plan_id": "bigint", "user_id": "text"}
ENTITIES = {"plan": {"plan_id": "bigint"}, "rater": RATER}
FEATURES = {
    "plan_features": (
        "plan",
        {"price": "numeric(9, 2)", "ratings_ever": "bigint", "stars_30d": "bigint"},
    ),
    "rater_features": ("rater", {"raters_60d": "bigint", "newest_price": "numeric(9,2)"}),
}


def versioned(name: str, entity: str, features: dict[str, str]) -> dict[str, Any]:
    """The YAML of a feature table."""
    instant = "timestamp with time zone"
    clocks = {"as_of": instant, "known_at": instant, "is_retracted": "boolean"}
    columns = ENTITIES[entity] | clocks | features
    grain = [*ENTITIES[entity], "as_of", "known_at"]
    return {
        "name": name,
        "config": {"meta": {"feast": {"entity": entity}}},
        "data_tests": [{"grain": {"arguments": {"columns": grain}}}, "covers_the_spine"],
        "columns": [{"name": name, "data_type": kind} for name, kind in columns.items()],
    }


@pytest.fixture
def extended(
    built: Built, project: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of the project with two tables and two entities more, and the tables."""
    monkeypatch.setenv("DBT_TARGET_PATH", str(tmp_path / "target"))
    folder = project()
    models = folder / "models"
    sources = models / "staging" / "_sources.yml"
    sources.write_text(sources.read_text().rstrip() + DECLARED)
    for name, sql in SQL.items():
        (models / f"{name}.sql").write_text(sql)
    told = [
        {
            "name": f"spine_{name}",
            "config": {"meta": {"entity": {"name": name, "join_keys": keys}}},
        }
        for name, keys in ENTITIES.items()
    ]
    told += [versioned(name, *of) for name, of in FEATURES.items()]
    (models / "extended.yml").write_text(yaml.safe_dump({"models": told}, sort_keys=False))
    execute(*TABLES)
    return folder


def load(table: str, day: str, values: list[str], withdrawn: str = "false") -> None:
    """A load of one table as a drop of `day`; what is withdrawn goes out of effect with it."""
    (number,) = rows("select max(load_id) + 1 from raw.loads")[0]
    execute(
        f"insert into raw.loads overriding system value values ({number}, '{table}', '{day}',"
        f" now(), {len(values)}, {len(values)}, 0, '')",
        f"update raw.{table} set superseded_by = {number}"
        f" where superseded_by is null and ({withdrawn})",
        *(f"insert into raw.{table} values ({v}, '{day}', {number}, now())" for v in values),
    )


def newest(table: str, columns: str) -> list[tuple[Any, ...]]:
    return rows(f"select {columns} from published.{table}_latest order by {columns}")


def build(folder: Path, **variables: Any) -> str:
    arguments = ("build", "--exclude-resource-type", "unit_test")
    outcome = builds.dbt(*arguments, project=folder, **variables)
    assert outcome.success, outcome.output[-4000:]
    assert "Published" in outcome.output, outcome.output[-4000:]
    return outcome.output


def test_any_table_entity_and_type(built: Built, extended: Path) -> None:
    days = [
        f"{day:%Y-%m-%d}" for (day,) in rows("select as_of from staging.int_calendar order by 1")
    ]
    first, last = days[0], days[-1]
    load("plans", first, ["1, 9.50", "2, 20"])
    for (day,) in rows("select distinct as_of from raw.loads"):  # else "no rating" is unknown
        load("ratings", f"{day:%Y-%m-%d}", [])
    load("ratings", last, [
        f"'a', 'u', 1, 5, timestamptz '{first}' - interval '1 microsecond'",
        f"'b', 'v', 1, 3, timestamptz '{first}'",
        f"'c', 'u', 3, 3, timestamptz '{last}' - interval '1 day'",
    ])  # fmt: skip
    build(extended)
    at = f"to_char(as_of, 'YYYY-MM-DD') = '{first}'"
    assert rows(
        "select plan_id, price::text, ratings_ever, stars_30d from published.plan_features_latest"
        f" where {at} order by 1"
    ) == [(1, "9.50", 1, 5), (2, "20.00", 0, None)]
    assert rows(
        "select plan_id, ratings_ever from published.plan_features_latest"
        f" where to_char(as_of, 'YYYY-MM-DD') = '{last}' order by 1"
    ) == [(1, 2), (2, 0)]
    # nobody had rated plan 3 in time for the others; plan 1 was rated by u alone before `first`
    assert rows(
        "select plan_id, user_id, raters_60d, newest_price::text"
        f" from published.rater_features_latest where {at} order by 1"
    ) == [(1, "u", 1, "9.50")]
    assert rows(
        "select user_id from published.rater_features_latest"
        f" where plan_id = 3 and to_char(as_of, 'YYYY-MM-DD') = '{last}'"
    ) == [("u",)]

    # late, moved, withdrawn; a drop of the state in between; a drop of another day
    changes: list[tuple[str, str, list[str], str]] = [
        ("ratings", last, [f"'d', 'w', 1, 1, timestamptz '{first}' - interval '40 days'"], "false"),
        ("ratings", last, [f"'a', 'u', 2, 5, timestamptz '{days[1]}'"], "rating_id = 'a'"),
        ("plans", days[1], ["1, 11", "3, 1"], "false"),
        ("plans", first, [], "plan_id = 2"),
        ("ratings", "2030-01-01", [], "rating_id = 'c'"),
    ]
    for change in changes:
        load(*change)
        build(extended)
        found = {table: builds.rows(f"select * from published.{table}") for table in FEATURES}
        again = build(extended, recompute=True)
        assert "Published: no row changed" in again, change
        assert {t: builds.rows(f"select * from published.{t}") for t in FEATURES} == found


def test_an_entity_that_does_not_fit_is_refused(built: Built, extended: Path) -> None:
    model = extended / "models" / "features" / "rater_features.sql"
    text = model.read_text()
    for old, new, words in [
        ("latest=['plans']", "states=['plans']", ["latest", "no drop describes a rater"]),
        ("latest=['plans']", "", ["reads stg_plans", "pairs_to_compute"]),
        ("entity='rater'", "entity='plan'", ["'plan' in the model", "'rater' in meta.feast"]),
    ]:
        model.write_text(text.replace(old, new))
        outcome = builds.dbt("build", project=extended)
        assert not outcome.success
        for word in words:
            assert word in outcome.output, outcome.output[-3000:]
    model.write_text(text)
