{% set usage = events(
    'usage', at='started_at', reach_days=30, may_lack=['device_id', 'rebuffer_events']
) %}
with

pairs as (
    {{ pairs_to_compute(entity='device', events=[usage]) }}
),

measured as (
    {% call over_events(usage, keys=['device_id']) %}
        count(distinct user_id) filter (where {{ usage.window(30) }}) as users_30d,
        sum(watch_ms) filter (where {{ usage.window(30) }}) as ms_30d,
        sum(rebuffer_events) filter (where {{ usage.window(30) }}) as rebuffers_30d,
        count(rebuffer_events) filter (where {{ usage.window(30) }}) as told_rebuffers_30d
    {% endcall %}
),

final as (
    select
        measured.device_id,
        measured.as_of,
        case
            when {{ usage.covered(30, column='device_id') }}
                then measured.users_30d
        end as users_30d,
        case
            when {{ usage.covered(30, column='device_id') }}
                then {{ ratio('coalesce(measured.ms_30d, 0)', 3600000) }}
        end as device_watch_hours_30d,
        case
            when
                {{ usage.covered(30, column='device_id') }}
                and {{ usage.covered(30, column='rebuffer_events') }}
                then {{ ratio('measured.rebuffers_30d', 'measured.told_rebuffers_30d') }}
        end as rebuffers_per_session_30d
    from measured
),

{{ versions('final', 'pairs') }}
