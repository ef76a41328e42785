{#- No CTE in a view that others join: see docs/decisions/0012-no-cte-in-a-view.md. -#}
select
    session_id,
    user_id,
    started_at,
    device_id,
    cast(watch_minutes * 60000 as bigint) as watch_ms,
    skips,
    rebuffer_events,
    load_id
from {{ source('raw', 'usage') }}
where {{ in_effect() }}
