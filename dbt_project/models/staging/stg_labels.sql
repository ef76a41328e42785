{#- No CTE in a view that others join: see docs/decisions/0012-no-cte-in-a-view.md. -#}
select
    user_id,
    as_of,
    churn_label,
    load_id
from {{ source('raw', 'labels') }}
where {{ in_effect() }}
