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
        pairs.*,
        windows.*
    from pairs
    cross join lateral (
        select
            count(*) filter (
                where status = 'failed' and {{ in_days('attempted_at', 90, 'pairs.as_of') }}
            ) as failed_90d,
            sum(amount_cents) filter (
                where status = 'succeeded' and {{ in_days('attempted_at', 90, 'pairs.as_of') }}
            ) as paid_cents_90d,
            max(attempted_at) filter (
                where status = 'failed' and {{ in_days('attempted_at', 180, 'pairs.as_of') }}
            ) as last_failed_at
        from payments
        where
            payments.user_id = pairs.user_id
            and {{ in_days('payments.attempted_at', longest_window('payments'), 'pairs.as_of') }}
    ) as windows
    where pairs.in_spine
),

final as (
    select
        measured.user_id,
        measured.as_of,
        case
            when {{ covered('measured.payments_since', 90, 'measured.as_of') }}
                then measured.failed_90d
            else delivered.failed_payments_90d
        end as failed_payments_90d,
        case
            when {{ covered('measured.payments_since', 90, 'measured.as_of') }}
                then {{ ratio('coalesce(measured.paid_cents_90d, 0)', 100) }}
        end as paid_amount_90d,
        case
            when {{ covered('measured.payments_since', 180, 'measured.as_of') }}
                then {{ whole_days('measured.last_failed_at', 'measured.as_of') }}
        end as days_since_last_failed_payment
    from measured
    left join delivered on measured.user_id = delivered.user_id and measured.as_of = delivered.as_of
),

{{ versions('final', 'pairs') }}
