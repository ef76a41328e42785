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

-- One look-up in the index for each pair: the events of a window are summed as they are read, with
-- nothing to sort or spill however long the history is.
measured as (
    select
        pairs.*,
        windows.*
    from pairs
    cross join lateral (
        select
            sum(watch_ms) filter (where {{ in_days('started_at', 30, 'pairs.as_of') }}) as ms_30d,
            sum(watch_ms) filter (
                where
                {{ in_days('started_at', 60, 'pairs.as_of') }}
                and not ({{ in_days('started_at', 30, 'pairs.as_of') }})
            ) as ms_30d_before,
            sum(watch_ms) filter (where {{ in_days('started_at', 7, 'pairs.as_of') }}) as ms_7d,
            count(*) filter (where {{ in_days('started_at', 7, 'pairs.as_of') }}) as sessions_7d,
            count(*) filter (where {{ in_days('started_at', 30, 'pairs.as_of') }}) as sessions_30d,
            sum(skips) filter (where {{ in_days('started_at', 7, 'pairs.as_of') }}) as skips_7d,
            sum(rebuffer_events) filter (
                where {{ in_days('started_at', 7, 'pairs.as_of') }}
            ) as rebuffer_events_7d,
            count(distinct device_id) filter (
                where {{ in_days('started_at', 30, 'pairs.as_of') }}
            ) as devices_30d,
            count(distinct {{ utc_date('started_at') }}) filter (
                where {{ in_days('started_at', 30, 'pairs.as_of') }}
            ) as active_days_30d,
            max(started_at) filter (
                where {{ in_days('started_at', 90, 'pairs.as_of') }}
            ) as last_started_at
        from sessions
        where
            sessions.user_id = pairs.user_id
            and {{ in_days('sessions.started_at', longest_window('usage'), 'pairs.as_of') }}
    ) as windows
    where pairs.in_spine
),

final as (
    select
        measured.user_id,
        measured.as_of,
        case
            when {{ covered('measured.usage_since', 30, 'measured.as_of') }}
                then {{ ratio('coalesce(measured.ms_30d, 0)', 3600000) }}
            else delivered.watch_hours_30d
        end as watch_hours_30d,
        case
            when {{ covered('measured.usage_since', 7, 'measured.as_of') }}
                then {{ ratio('measured.ms_7d', '60000 * measured.sessions_7d') }}
            else delivered.avg_session_mins_7d
        end as avg_session_mins_7d,
        case
            when {{ covered('measured.devices_since', 30, 'measured.as_of') }}
                then
                    case
                        when measured.devices_30d > 0 or measured.sessions_30d = 0
                            then measured.devices_30d
                    end
            else delivered.unique_devices_30d
        end as unique_devices_30d,
        case
            when {{ covered('measured.skips_since', 7, 'measured.as_of') }}
                then
                    cast(
                        case
                            when measured.sessions_7d = 0 then 0
                            else measured.skips_7d
                        end as bigint
                    )
            else delivered.skips_7d
        end as skips_7d,
        case
            when {{ covered('measured.rebuffers_since', 7, 'measured.as_of') }}
                then
                    cast(
                        case
                            when measured.sessions_7d = 0 then 0
                            else measured.rebuffer_events_7d
                        end as bigint
                    )
            else delivered.rebuffer_events_7d
        end as rebuffer_events_7d,
        case
            when {{ covered('measured.usage_since', 30, 'measured.as_of') }}
                then measured.active_days_30d
        end as active_days_30d,
        case
            when {{ covered('measured.usage_since', 90, 'measured.as_of') }}
                then {{ whole_days('measured.last_started_at', 'measured.as_of') }}
        end as days_since_last_session,
        case
            when {{ covered('measured.usage_since', 60, 'measured.as_of') }}
                then {{ ratio(
                    'coalesce(measured.ms_30d, 0) - coalesce(measured.ms_30d_before, 0)', 3600000
                ) }}
        end as watch_hours_trend_30d
    from measured
    left join delivered on measured.user_id = delivered.user_id and measured.as_of = delivered.as_of
),

{{ versions('final', 'pairs') }}
