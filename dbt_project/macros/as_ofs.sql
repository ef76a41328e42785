{#-
    What may be missing from a drop, although windows look at it: an event file, or a column of one
    that may be absent. Each gives `<name>_since` in the calendar (docs/decisions/0014).
-#}
{% macro captured() %}
    {{ return({
        'usage': {'table': 'usage'},
        'devices': {'table': 'usage', 'column': 'device_id'},
        'skips': {'table': 'usage', 'column': 'skips'},
        'rebuffers': {'table': 'usage', 'column': 'rebuffer_events'},
        'payments': {'table': 'payments'},
        'support': {'table': 'support'},
    }) }}
{% endmacro %}


{#- The calendar as seen with the loads up to `horizon`. -#}
{% macro as_ofs(horizon) %}
    {% set cadence = current_build().cadence %}
    select
        calendar.as_of,
        calendar.state_as_of,
        case when calendar.state_as_of < calendar.as_of then calendar.next_state_as_of end as next_state_as_of,
        {% for name in captured() %}
        (
            select max(stretch.until_drop)
            from (
                select
                    as_of as until_drop,
                    lag(as_of) over (order by as_of) as since_drop,
                    coalesce({{ name }}_load <= {{ horizon }}, false) as is_captured
                from {{ ref('stg_drops') }}
                where first_load <= {{ horizon }}
            ) as stretch
            where
                not stretch.is_captured
                and coalesce(stretch.since_drop < calendar.as_of, true)
        ) as {{ name }}_since{{ ',' if not loop.last }}
        {% endfor %}
    from (
        select
            instants.as_of,
            max(state_drops.as_of) filter (where state_drops.as_of <= instants.as_of) as state_as_of,
            min(state_drops.as_of) filter (where state_drops.as_of > instants.as_of) as next_state_as_of
        from (
            {% if cadence == 'drops' %}
            select as_of from {{ ref('stg_drops') }} where users_load <= {{ horizon }}
            {% else %}
            select {{ utc_midnight('day') }} as as_of
            from (
                select generate_series(
                    date_trunc('{{ cadence }}', min(as_of) at time zone 'UTC'),
                    max(as_of) at time zone 'UTC',
                    interval '1 {{ cadence }}'
                ) as day, min(as_of) as first_as_of
                from {{ ref('stg_drops') }}
                where users_load <= {{ horizon }}
            ) as days
            where {{ utc_midnight('day') }} >= first_as_of
            {% endif %}
        ) as instants
        cross join (
            select as_of from {{ ref('stg_drops') }} where users_load <= {{ horizon }}
        ) as state_drops
        group by instants.as_of
    ) as calendar
{% endmacro %}
