{{ config(materialized='view', post_hook=[]) }}
-- Both halves name their tables directly: Postgres would compute a CTE that is used twice in full,
-- where a build asks for a few users only.
with

listed_users as (
    select
        users.user_id,
        as_ofs.as_of,
        users.signup_date,
        as_ofs.state_as_of
    from {{ ref('spine_as_of') }} as as_ofs
    inner join {{ ref('stg_users') }} as users on as_ofs.state_as_of = users.as_of
    where users.signup_date < {{ utc_date('as_ofs.as_of') }}
),

-- Signed up since the newest drop: the next drop lists them, their state is not known yet.
new_users as (
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
),

spine as (
    select * from listed_users
    union all
    select * from new_users
)

select * from spine
