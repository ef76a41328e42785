with

pairs as (
    {{ pairs_to_compute(entity='user', states=['users']) }}
),

users as (
    select * from {{ ref('stg_users') }}
    where {{ among('as_of', 'state_as_of', 'pairs') }}
),

final as (
    select
        pairs.user_id,
        pairs.as_of,
        users.user_gender,
        users.user_is_senior,
        users.has_family,
        users.has_dependents,
        {{ days_between('pairs.signup_date', utc_date('pairs.as_of')) }} as tenure_days,
        pairs.signup_date
    from pairs
    left join users on pairs.user_id = users.user_id and pairs.state_as_of = users.as_of
    where pairs.in_spine
),

{{ versions('final', 'pairs') }}
