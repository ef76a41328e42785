{#- No CTE in a view that others join: see docs/decisions/0012-no-cte-in-a-view.md. -#}
select
    payment_id,
    user_id,
    attempted_at,
    cast(amount * 100 as bigint) as amount_cents,
    status,
    load_id
from {{ source('raw', 'payments') }}
where {{ in_effect() }}
