{#- No CTE in a view that others join: see docs/decisions/0012-no-cte-in-a-view.md. -#}
select
    user_id,
    as_of,
    watch_hours_30d,
    avg_session_mins_7d,
    unique_devices_30d,
    skips_7d,
    rebuffer_events_7d,
    load_id
from {{ source('raw', 'usage_agg_30d') }}
where {{ in_effect() }}
