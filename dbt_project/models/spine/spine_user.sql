{{ config(materialized='view', post_hook=[]) }}
{#- No CTE in a view that others join: see docs/decisions/0012-no-cte-in-a-view.md. -#}
select
    users.user_id,
    as_ofs.as_of,
    users.signup_date,
    as_ofs.state_as_of
from {{ ref('spine_as_of') }} as as_ofs
inner join {{ ref('stg_users') }} as users on as_ofs.state_as_of = users.as_of
where {{ listed('as_ofs') }}

union all

-- Signed up since the newest drop: the next drop lists them, their state is not known yet.
select
    next_users.user_id,
    as_ofs.as_of,
    next_users.signup_date,
    as_ofs.state_as_of
from {{ ref('spine_as_of') }} as as_ofs
inner join {{ ref('stg_users') }} as next_users on as_ofs.next_state_as_of = next_users.as_of
left join {{ ref('stg_users') }} as users
    on next_users.user_id = users.user_id and as_ofs.state_as_of = users.as_of
where {{ signed_up_since('as_ofs') }}
