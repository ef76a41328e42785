{#- No CTE in a view that others join: see docs/decisions/0012-no-cte-in-a-view.md. -#}
select
    ticket_id,
    user_id,
    opened_at,
    resolved_at,
    split_part(category, '/', 1) as kind,
    split_part(category, '/', 2) as topic,
    load_id
from {{ source('raw', 'support') }}
where {{ in_effect() }}
