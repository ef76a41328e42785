{#- By the user: a session on one device changes the share of the user's other devices too. -#}
{% set usage = events(
    'usage', at='started_at', reach_days=90, by=['user_id'], may_lack=['device_id']
) %}
with

pairs as (
    {{ pairs_to_compute(entity='user_device', events=[usage]) }}
),

measured as (
    {% call over_events(usage, keys=['user_id', 'device_id']) %}
        sum(watch_ms) filter (where {{ usage.window(30) }}) as user_ms_30d,
        sum(watch_ms) filter (
            where usage.device_id = pairs.device_id and {{ usage.window(30) }}
        ) as ms_30d,
        max(started_at) filter (
            where usage.device_id = pairs.device_id and {{ usage.window(90) }}
        ) as last_started_at
    {% endcall %}
),

final as (
    select
        measured.user_id,
        measured.device_id,
        measured.as_of,
        case
            when {{ usage.covered(30, column='device_id') }}
                then {{ ratio('coalesce(measured.ms_30d, 0)', 'measured.user_ms_30d') }}
        end as watch_share_30d,
        case
            when {{ usage.covered(90, column='device_id') }}
                then measured.last_started_at
        end as last_seen_at
    from measured
),

{{ versions('final', 'pairs') }}
