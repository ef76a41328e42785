{{ config(materialized='view', post_hook=[]) }}
with

as_ofs as (
    select * from {{ ref('spine_as_of') }}
),

users as (
    select * from {{ ref('stg_users') }}
),

listed_users as (
    select
        users.user_id,
        as_ofs.as_of,
        users.signup_date,
        as_ofs.state_as_of
    from as_ofs
    inner join users on as_ofs.state_as_of = users.as_of
    where users.signup_date < {{ utc_date('as_ofs.as_of') }}
),

-- Signed up since the newest drop: the next drop lists them, their state is not known yet.
new_users as (
    select
        users.user_id,
        as_ofs.as_of,
        users.signup_date,
        as_ofs.state_as_of
    from as_ofs
    inner join users on as_ofs.next_state_as_of = users.as_of
    left join users as listed
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
