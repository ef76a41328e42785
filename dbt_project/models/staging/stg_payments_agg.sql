with

delivered as (
    select * from {{ source('raw', 'payments_agg_90d') }}
    where {{ in_effect() }}
),

typed as (
    select
        user_id,
        as_of,
        failed_payments_90d,
        load_id
    from delivered
)

select * from typed
