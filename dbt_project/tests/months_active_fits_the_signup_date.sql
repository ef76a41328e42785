-- More months of activity than have passed since signup: one of the two is wrong.
{{ config(severity='warn') }}
with

subscriptions as (
    select * from {{ get_where_subquery(ref('stg_subscriptions')) }}
),

users as (
    select * from {{ ref('stg_users') }}
)

select
    subscriptions.user_id,
    subscriptions.as_of,
    subscriptions.months_active,
    users.signup_date
from subscriptions
inner join users on subscriptions.user_id = users.user_id and subscriptions.as_of = users.as_of
where
    users.signup_date + subscriptions.months_active * interval '1 month'
    > cast({{ utc_date('subscriptions.as_of') }} as timestamp)
