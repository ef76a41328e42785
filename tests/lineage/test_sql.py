"""Column lineage of one query: what each column is made from, and what decides about it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlglot import exp

from orchestration.lineage.sql import LineageError, QueryLineage, lineage_of, relation

TABLES = {
    "users": ["user_id", "born", "city"],
    "usage": ["session_id", "user_id", "started_at", "device_id", "ms"],
    "days": ["as_of"],
}


def lineage(query: str) -> QueryLineage:
    def of(table: exp.Table) -> QueryLineage:
        if table.name == "itself":
            return QueryLineage(dict.fromkeys(["user_id", "total"], frozenset()), own=True)
        return relation(table.name, TABLES.get(table.name))

    return lineage_of(query, of, "postgres", "model m")


def told(query: str, column: str | None = None) -> set[str]:
    """table.column=subtype of a column, or of the rows."""
    found = lineage(query)
    uses: Any = found.rows if column is None else found.columns[column]
    return {f"{u.relation}.{u.column}={u.subtype}" for u in uses if u.column}


def test_a_column_as_it_is_transformed_or_aggregated_is_a_value() -> None:
    query = "select user_id, ms / 1000 as seconds, sum(ms) as total from usage group by 1, 2"
    assert told(query, "user_id") == {"usage.user_id=IDENTITY"}
    assert told(query, "seconds") == {"usage.ms=TRANSFORMATION"}
    assert told(query, "total") == {"usage.ms=AGGREGATION"}
    assert told(query) == {"usage.user_id=GROUP_BY", "usage.ms=GROUP_BY"}


def test_what_a_case_asks_is_a_condition_and_what_it_gives_a_value() -> None:
    query = "select case when born > '2000-01-01' then city else user_id end as x from users"
    assert told(query, "x") == {
        "users.born=CONDITIONAL",
        "users.city=TRANSFORMATION",
        "users.user_id=TRANSFORMATION",
    }


def test_a_lateral_window_sees_its_pair_and_decides_about_its_own_columns_alone() -> None:
    query = """
        with pairs as (select users.*, days.as_of from users cross join days),
        measured as (
            select pairs.*, windows.* from pairs
            cross join lateral (
                select
                    sum(ms) filter (where device_id = 'tv') as tv_ms,
                    count(*) as sessions
                from usage
                where usage.user_id = pairs.user_id and started_at < pairs.as_of
            ) as windows
        )
        select user_id, city, tv_ms, sessions from measured
    """
    window = {
        "usage.user_id=JOIN",
        "users.user_id=JOIN",
        "usage.started_at=FILTER",
        "days.as_of=FILTER",
    }
    assert told(query, "sessions") == window
    assert told(query, "tv_ms") == window | {"usage.ms=AGGREGATION", "usage.device_id=FILTER"}
    assert told(query, "city") == {"users.city=IDENTITY"}
    assert told(query) == set()


def test_joins_filters_windows_and_the_order_of_distinct_on_decide() -> None:
    query = """
        select distinct on (u.user_id) u.city, row_number() over (
            partition by u.born order by s.ms
        ) as place
        from users as u left join usage as s on u.user_id = s.user_id
        where s.device_id is not null order by u.user_id, s.started_at desc
    """
    assert told(query, "place") == {"users.born=WINDOW", "usage.ms=SORT"}
    assert told(query) == {
        "users.user_id=JOIN",
        "usage.user_id=JOIN",
        "usage.device_id=FILTER",
        "users.user_id=GROUP_BY",
        "users.user_id=SORT",
        "usage.started_at=SORT",
    }


def test_subqueries_in_conditions_unions_and_renamed_columns_are_followed() -> None:
    query = """
        with named (who, day) as (
            select user_id, started_at from usage where exists (
                select 1 from users where users.user_id = usage.user_id and born is not null
            )
            union all
            select user_id, (select max(as_of) from days) from users
        )
        select who, day from named
    """
    assert told(query, "who") == {"usage.user_id=IDENTITY", "users.user_id=IDENTITY"}
    assert told(query, "day") == {"usage.started_at=IDENTITY", "days.as_of=AGGREGATION"}
    assert {"users.born=FILTER", "users.user_id=JOIN"} <= told(query)


def test_which_versions_a_model_stores_already_is_no_part_of_a_value() -> None:
    query = """
        with final as (select user_id, sum(ms) as total from usage group by user_id),
        newest as (select user_id, total from itself),
        versions as (
            select final.* from final left join newest on final.user_id = newest.user_id
            where newest.total is distinct from final.total and final.total > 3
            union all
            select newest.user_id, cast(null as bigint) from newest
        )
        select * from versions
    """
    assert told(query, "total") == {"usage.ms=AGGREGATION"}
    assert told(query) == {"usage.user_id=GROUP_BY"}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("select wrong from users", "column wrong is not found in users"),
        ("select users.wrong from users", "column users.wrong is not found in users"),
        ("select user_id from users cross join usage", "user_id could be of several of users, us"),
        ("select * from unknown", r"`\*` of unknown, whose columns are not declared"),
        ("select x.* from users", r"x\.\* is of nothing that it reads"),
        ("select (", "cannot be parsed"),
    ],
)
def test_what_cannot_be_resolved_is_an_error_that_names_it(query: str, said: str) -> None:
    with pytest.raises(LineageError, match=f"model m: .*{said}"):
        lineage(query)
