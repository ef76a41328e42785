{#- No CTE in a view that others join: see docs/decisions/0012-no-cte-in-a-view.md. -#}
select
    user_id,
    as_of,
    signup_date,
    user_gender,
    user_is_senior,
    has_family,
    has_dependents,
    load_id
from {{ source('raw', 'users') }}
where {{ in_effect() }}
