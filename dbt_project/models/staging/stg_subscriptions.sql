{#- No CTE in a view that others join: see docs/decisions/0012-no-cte-in-a-view.md. -#}
select
    user_id,
    as_of,
    months_active,
    plan_stream_tv,
    plan_stream_movies,
    contract_type,
    paperless_billing,
    cast(monthly_fee as {{ type_double() }}) as monthly_fee,
    cast(total_paid as {{ type_double() }}) as total_paid,
    total_paid as total_paid_exact,
    net_service,
    load_id
from {{ source('raw', 'subscriptions') }}
where {{ in_effect() }}
