with

delivered as (
    select * from {{ source('raw', 'support') }}
    where {{ in_effect() }}
),

typed as (
    select
        ticket_id,
        user_id,
        opened_at,
        resolved_at,
        split_part(category, '/', 1) as kind,
        split_part(category, '/', 2) as topic,
        load_id
    from delivered
)

select * from typed
