{{ config(materialized='view', post_hook=[]) }}
{#- No CTE in a view that others join: see docs/decisions/0012-no-cte-in-a-view.md. -#}
select
    users.user_id,
    as_ofs.as_of,
    users.signup_date,
    as_ofs.state_as_of
from {{ ref('spine_as_of') }} as as_ofs
inner join {{ ref('stg_users') }} as users on as_ofs.state_as_of = users.as_of
where users.signup_date < {{ utc_date('as_ofs.as_of') }}

union all

-- Signed up since the newest drop: the next drop lists them, their state is not known yet.
select
    users.user_id,
    as_ofs.as_of,
    users.signup_date,
    as_ofs.state_as_of
from {{ ref('spine_as_of') }} as as_ofs
inner join {{ ref('stg_users') }} as users on as_ofs.next_state_as_of = users.as_of
left join {{ ref('stg_users') }} as listed
    on users.user_id = listed.user_id and as_ofs.state_as_of = listed.as_of
where
    users.signup_date >= {{ utc_date('as_ofs.state_as_of') }}
    and users.signup_date < {{ utc_date('as_ofs.as_of') }}
    and listed.user_id is null
