with

pairs as (
    select * from {{ ref('spine_changes') }} where usage_features
),

sessions as (
    select * from {{ ref('stg_usage') }}
),

delivered as (
    select * from {{ ref('stg_usage_agg') }}
),

-- By device first: counting distinct devices in one step would sort every session of every window.
per_device as (
    select
        pairs.user_id,
        pairs.as_of,
        sessions.device_id,
        sum(sessions.watch_ms) filter (where {{ in_days('started_at', 30) }}) as ms_30d,
        sum(sessions.watch_ms) filter (where not ({{ in_days('started_at', 30) }})) as ms_30d_before,
        sum(sessions.watch_ms) filter (where {{ in_days('started_at', 7) }}) as ms_7d,
        count(*) filter (where {{ in_days('started_at', 7) }}) as sessions_7d,
        sum(sessions.skips) filter (where {{ in_days('started_at', 7) }}) as skips_7d,
        sum(sessions.rebuffer_events) filter (where {{ in_days('started_at', 7) }}) as rebuffer_events_7d,
        count(*) filter (where {{ in_days('started_at', 30) }}) as sessions_30d,
        bit_or({{ day_bit('started_at', 'as_of') }}) filter (where {{ in_days('started_at', 30) }}) as days_30d
    from pairs
    inner join sessions
        on pairs.user_id = sessions.user_id and {{ in_days('sessions.started_at', 60, 'pairs.as_of') }}
    where pairs.in_spine
    group by pairs.user_id, pairs.as_of, sessions.device_id
),

measured as (
    select
        user_id,
        as_of,
        sum(ms_30d) as ms_30d,
        sum(ms_30d_before) as ms_30d_before,
        sum(ms_7d) as ms_7d,
        sum(sessions_7d) as sessions_7d,
        sum(skips_7d) as skips_7d,
        sum(rebuffer_events_7d) as rebuffer_events_7d,
        count(device_id) filter (where sessions_30d > 0) as devices_30d,
        {{ count_bits('bit_or(days_30d)') }} as active_days_30d
    from per_device
    group by user_id, as_of
),

last_sessions as (
    select
        pairs.user_id,
        pairs.as_of,
        (
            select max(sessions.started_at)
            from {{ ref('stg_usage') }} as sessions
            where
                sessions.user_id = pairs.user_id
                and {{ in_days('sessions.started_at', 90, 'pairs.as_of') }}
        ) as last_started_at
    from pairs
    where pairs.in_spine
),

final as (
    select
        pairs.user_id,
        pairs.as_of,
        case
            when {{ covered('pairs.usage_since', 30, 'pairs.as_of') }}
                then {{ ratio('coalesce(measured.ms_30d, 0)', 3600000) }}
            else delivered.watch_hours_30d
        end as watch_hours_30d,
        case
            when {{ covered('pairs.usage_since', 7, 'pairs.as_of') }}
                then {{ ratio('measured.ms_7d', '60000 * measured.sessions_7d') }}
            else delivered.avg_session_mins_7d
        end as avg_session_mins_7d,
        case
            when {{ covered('pairs.usage_since', 30, 'pairs.as_of') }} then coalesce(measured.devices_30d, 0)
            else delivered.unique_devices_30d
        end as unique_devices_30d,
        case
            when {{ covered('pairs.usage_since', 7, 'pairs.as_of') }}
                then cast(coalesce(measured.skips_7d, 0) as bigint)
            else delivered.skips_7d
        end as skips_7d,
        case
            when {{ covered('pairs.usage_since', 7, 'pairs.as_of') }}
                then cast(coalesce(measured.rebuffer_events_7d, 0) as bigint)
            else delivered.rebuffer_events_7d
        end as rebuffer_events_7d,
        case
            when {{ covered('pairs.usage_since', 30, 'pairs.as_of') }} then coalesce(measured.active_days_30d, 0)
        end as active_days_30d,
        case
            when {{ covered('pairs.usage_since', 90, 'pairs.as_of') }}
                then {{ whole_days('last_sessions.last_started_at', 'pairs.as_of') }}
        end as days_since_last_session,
        case
            when {{ covered('pairs.usage_since', 60, 'pairs.as_of') }}
                then {{ ratio('coalesce(measured.ms_30d, 0) - coalesce(measured.ms_30d_before, 0)', 3600000) }}
        end as watch_hours_trend_30d
    from pairs
    left join measured on pairs.user_id = measured.user_id and pairs.as_of = measured.as_of
    inner join last_sessions
        on pairs.user_id = last_sessions.user_id and pairs.as_of = last_sessions.as_of
    left join delivered on pairs.user_id = delivered.user_id and pairs.as_of = delivered.as_of
    where pairs.in_spine
),

{{ versions('final', 'pairs') }}
