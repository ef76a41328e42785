{#- No CTE in a view that others join: see docs/decisions/0012-no-cte-in-a-view.md. -#}
select
    user_id,
    as_of,
    failed_payments_90d,
    load_id
from {{ source('raw', 'payments_agg_90d') }}
where {{ in_effect() }}
