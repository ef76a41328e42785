{% set payments = events('payments', at='attempted_at', reach_days=180) %}
with

pairs as (
    {{ pairs_to_compute(entity='user', events=[payments], delivered=['payments_agg_90d']) }}
),

delivered as (
    select * from {{ ref('stg_payments_agg') }}
),

measured as (
    {% call over_events(payments, keys=['user_id']) %}
        count(*) filter (
            where status = 'failed' and {{ payments.window(90) }}
        ) as failed_90d,
        sum(amount_cents) filter (
            where status = 'succeeded' and {{ payments.window(90) }}
        ) as paid_cents_90d,
        max(attempted_at) filter (
            where status = 'failed' and {{ payments.window(180) }}
        ) as last_failed_at
    {% endcall %}
),

final as (
    select
        measured.user_id,
        measured.as_of,
        case
            when {{ payments.covered(90) }}
                then measured.failed_90d
            else delivered.failed_payments_90d
        end as failed_payments_90d,
        case
            when {{ payments.covered(90) }}
                then {{ ratio('coalesce(measured.paid_cents_90d, 0)', 100) }}
        end as paid_amount_90d,
        case
            when {{ payments.covered(180) }}
                then {{ whole_days('measured.last_failed_at', 'measured.as_of') }}
        end as days_since_last_failed_payment
    from measured
    left join delivered on measured.user_id = delivered.user_id and measured.as_of = delivered.as_of
),

{{ versions('final', 'pairs') }}
