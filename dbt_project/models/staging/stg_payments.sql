with

delivered as (
    select * from {{ source('raw', 'payments') }}
    where {{ in_effect() }}
),

typed as (
    select
        payment_id,
        user_id,
        attempted_at,
        cast(amount * 100 as bigint) as amount_cents,
        status,
        load_id
    from delivered
)

select * from typed
