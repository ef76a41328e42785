{#- No CTE in a view that others join: see docs/decisions/0012-no-cte-in-a-view.md. -#}
select
    user_id,
    as_of,
    support_tickets_90d,
    ticket_avg_resolution_hrs_90d,
    load_id
from {{ source('raw', 'support_agg_90d') }}
where {{ in_effect() }}
