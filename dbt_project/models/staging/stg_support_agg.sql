with

delivered as (
    select * from {{ source('raw', 'support_agg_90d') }}
    where {{ in_effect() }}
),

typed as (
    select
        user_id,
        as_of,
        support_tickets_90d,
        ticket_avg_resolution_hrs_90d,
        load_id
    from delivered
)

select * from typed
