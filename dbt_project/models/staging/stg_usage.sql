with

delivered as (
    select * from {{ source('raw', 'usage') }}
    where {{ in_effect() }}
),

typed as (
    select
        session_id,
        user_id,
        started_at,
        device_id,
        cast(watch_minutes * 60000 as bigint) as watch_ms,
        skips,
        rebuffer_events,
        load_id
    from delivered
)

select * from typed
