with

pairs as (
    select * from {{ ref('spine_changes') }} where payment_features
),

payments as (
    select * from {{ ref('stg_payments') }}
),

delivered as (
    select * from {{ ref('stg_payments_agg') }}
),

measured as (
    select
        pairs.user_id,
        pairs.as_of,
        count(*) filter (
            where payments.status = 'failed' and {{ in_days('attempted_at', 90) }}
        ) as failed_90d,
        sum(payments.amount_cents) filter (
            where payments.status = 'succeeded' and {{ in_days('attempted_at', 90) }}
        ) as paid_cents_90d,
        max(payments.attempted_at) filter (where payments.status = 'failed') as last_failed_at
    from pairs
    inner join payments
        on pairs.user_id = payments.user_id and {{ in_days('payments.attempted_at', 180, 'pairs.as_of') }}
    where pairs.in_spine
    group by pairs.user_id, pairs.as_of
),

final as (
    select
        pairs.user_id,
        pairs.as_of,
        case
            when {{ covered('pairs.payments_since', 90, 'pairs.as_of') }} then coalesce(measured.failed_90d, 0)
            else delivered.failed_payments_90d
        end as failed_payments_90d,
        case
            when {{ covered('pairs.payments_since', 90, 'pairs.as_of') }}
                then {{ ratio('coalesce(measured.paid_cents_90d, 0)', 100) }}
        end as paid_amount_90d,
        case
            when {{ covered('pairs.payments_since', 180, 'pairs.as_of') }}
                then {{ whole_days('measured.last_failed_at', 'pairs.as_of') }}
        end as days_since_last_failed_payment
    from pairs
    left join measured on pairs.user_id = measured.user_id and pairs.as_of = measured.as_of
    left join delivered on pairs.user_id = delivered.user_id and pairs.as_of = delivered.as_of
    where pairs.in_spine
),

{{ versions('final', 'pairs') }}
