with

delivered as (
    select * from {{ source('raw', 'users') }}
    where {{ in_effect() }}
),

typed as (
    select
        user_id,
        as_of,
        signup_date,
        user_gender,
        user_is_senior,
        has_family,
        has_dependents,
        load_id
    from delivered
)

select * from typed
