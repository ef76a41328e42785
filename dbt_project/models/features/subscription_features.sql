with

pairs as (
    {{ pairs_to_compute(entity='user', states=['subscriptions']) }}
),

subscriptions as (
    select * from {{ ref('stg_subscriptions') }}
    where {{ among('as_of', 'state_as_of', 'pairs') }}
),

final as (
    select
        pairs.user_id,
        pairs.as_of,
        subscriptions.months_active,
        subscriptions.monthly_fee,
        subscriptions.total_paid,
        subscriptions.total_paid_exact,
        subscriptions.paperless_billing,
        subscriptions.plan_stream_tv,
        subscriptions.plan_stream_movies,
        subscriptions.net_service,
        subscriptions.contract_type
    from pairs
    left join subscriptions
        on pairs.user_id = subscriptions.user_id and pairs.state_as_of = subscriptions.as_of
    where pairs.in_spine
),

{{ versions('final', 'pairs') }}
