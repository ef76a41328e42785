{% set usage = events(
    'usage', at='started_at', reach_days=90, may_lack=['device_id', 'skips', 'rebuffer_events']
) %}
with

pairs as (
    {{ pairs_to_compute(entity='user', events=[usage], delivered=['usage_agg_30d']) }}
),

delivered as (
    select * from {{ ref('stg_usage_agg') }}
),

measured as (
    {% call over_events(usage, keys=['user_id']) %}
        sum(watch_ms) filter (where {{ usage.window(30) }}) as ms_30d,
        sum(watch_ms) filter (
            where
            {{ usage.window(60) }}
            and not {{ usage.window(30) }}
        ) as ms_30d_before,
        sum(watch_ms) filter (where {{ usage.window(7) }}) as ms_7d,
        count(*) filter (where {{ usage.window(7) }}) as sessions_7d,
        count(*) filter (where {{ usage.window(30) }}) as sessions_30d,
        sum(skips) filter (where {{ usage.window(7) }}) as skips_7d,
        sum(rebuffer_events) filter (
            where {{ usage.window(7) }}
        ) as rebuffer_events_7d,
        count(distinct device_id) filter (
            where {{ usage.window(30) }}
        ) as devices_30d,
        count(distinct {{ utc_date('started_at') }}) filter (
            where {{ usage.window(30) }}
        ) as active_days_30d,
        max(started_at) filter (
            where {{ usage.window(90) }}
        ) as last_started_at
    {% endcall %}
),

final as (
    select
        measured.user_id,
        measured.as_of,
        case
            when {{ usage.covered(30) }}
                then {{ ratio('coalesce(measured.ms_30d, 0)', 3600000) }}
            else delivered.watch_hours_30d
        end as watch_hours_30d,
        case
            when {{ usage.covered(7) }}
                then {{ ratio('measured.ms_7d', '60000 * measured.sessions_7d') }}
            else delivered.avg_session_mins_7d
        end as avg_session_mins_7d,
        case
            when {{ usage.covered(30, column='device_id') }}
                then
                    case
                        when measured.devices_30d > 0 or measured.sessions_30d = 0
                            then measured.devices_30d
                    end
            else delivered.unique_devices_30d
        end as unique_devices_30d,
        case
            when {{ usage.covered(7, column='skips') }}
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
            when {{ usage.covered(7, column='rebuffer_events') }}
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
            when {{ usage.covered(30) }}
                then measured.active_days_30d
        end as active_days_30d,
        case
            when {{ usage.covered(90) }}
                then {{ whole_days('measured.last_started_at', 'measured.as_of') }}
        end as days_since_last_session,
        case
            when {{ usage.covered(60) }}
                then {{ ratio(
                    'coalesce(measured.ms_30d, 0) - coalesce(measured.ms_30d_before, 0)', 3600000
                ) }}
        end as watch_hours_trend_30d
    from measured
    left join delivered on measured.user_id = delivered.user_id and measured.as_of = delivered.as_of
),

{{ versions('final', 'pairs') }}
