with

delivered as (
    select * from {{ source('raw', 'labels') }}
    where {{ in_effect() }}
),

typed as (
    select
        user_id,
        as_of,
        churn_label,
        load_id
    from delivered
)

select * from typed
