{#-
    Who exists at which as_of, for a model spine_<entity>: one row a pair.

    No CTE in a view that others join: see docs/decisions/0012-no-cte-in-a-view.md.
-#}


{#-
    Those whom the newest drop with `table` at or before as_of lists; with `since`, a date of that
    table (the first day as a user), from the day after it, and before they are first listed too.
-#}
{% macro spine_from_state(entity, table, since=none) %}
    {%- if not execute -%}
        {%- do config(materialized='view', meta={'made_from': {'state': table, 'since': since}}) -%}
    {%- endif -%}
    {%- set keys = entity_keys(entity) -%}
    {%- set rows = ref('stg_' ~ table) -%}
    {%- set states = ref('int_states') -%}
select
    {{ columns_of('listed', keys) }},
    states.as_of,
    {%- if since %}
    listed.{{ since }},
    {%- endif %}
    states.state_as_of
from {{ states }} as states
inner join {{ rows }} as listed on states.state_as_of = listed.as_of
where states.table_name = '{{ table }}' and {{ is_listed(keys, since) }}
{%- if since %}

union all

-- Came since the newest drop: the next drop lists them, their state is not known yet.
select
    {{ columns_of('next_listed', keys) }},
    states.as_of,
    next_listed.{{ since }},
    states.state_as_of
from {{ states }} as states
inner join {{ rows }} as next_listed on states.next_state_as_of = next_listed.as_of
left join {{ rows }} as listed
    on {{ same(keys, 'next_listed', 'listed') }} and states.state_as_of = listed.as_of
where states.table_name = '{{ table }}' and {{ came_since(keys, since) }}
{%- endif %}
{%- endmacro %}


{#- Who is in the spine: one of these two holds. -#}
{% macro is_listed(keys, since) -%}
    {%- if since -%}
        coalesce(listed.{{ since }} < {{ utc_date('states.as_of') }}, false)
    {%- else -%}
        listed.{{ keys[0] }} is not null
    {%- endif -%}
{%- endmacro %}

{% macro came_since(keys, since) -%}
    (
        listed.{{ keys[0] }} is null
        and (states.state_as_of is null or next_listed.{{ since }} >= {{ utc_date('states.state_as_of') }})
        and coalesce(next_listed.{{ since }} < {{ utc_date('states.as_of') }}, false)
    )
{%- endmacro %}


{#- Those with an event of one of the tables in the `seen_days` before as_of. -#}
{% macro spine_from_events(entity, tables, seen_days) %}
    {%- do require_days(seen_days, "spine_from_events('" ~ entity ~ "', seen_days=" ~ tojson(seen_days) ~ ')') -%}
    {%- if not execute -%}
        {%- do config(materialized='view', meta={'made_from': {'seen_in': tables, 'seen_days': seen_days}}) -%}
    {%- endif -%}
    {%- for table in tables %}{% do ref('stg_' ~ table) %}{% endfor -%}
with

as_ofs as (
    select * from {{ ref('int_calendar') }}
),

{{ seen(entity_keys(entity), tables, seen_days) }}

select
    {{ columns_of('seen', entity_keys(entity)) }},
    as_ofs.as_of
from seen
inner join as_ofs on seen.ordinal = as_ofs.ordinal
{%- endmacro %}


{#-
    CTEs up to `seen`: keys and the ordinals of as_of's in whose `days` an event of theirs lies. Each
    event sees a stretch of as_of's; it ends where that of the next event begins, so that no pair
    comes twice however often somebody is seen.

    only    condition on as_of's: of all that follows, only those
-#}
{% macro seen(keys, tables, days, only=none) -%}
    {%- set columns = keys | join(', ') -%}
seen_first as (
    select {{ columns }}, first_ordinal, max(last_ordinal) as last_ordinal
    from (
        {%- for table in tables %}
        {%- set event_at = table ~ '.' ~ raw_table(table, ['event']).event_time %}
        select
            {{ columns_of(table, keys) }},
            {{ as_ofs_until(event_at) }} + 1 as first_ordinal,
            {{ last_reached(event_at, days) }} as last_ordinal
        from {{ relation_of('stg_' ~ table) }} as {{ table }}
        {{ beside_as_ofs() }}
        where
            {%- for key in keys %}
            {{ table }}.{{ key }} is not null{{ ' and' if not loop.last }}
            {%- endfor %}
            {%- if only %}
            and exists (select 1 from as_ofs where {{ only }}) -- if not, nothing is read
            and {{ event_at }} < (select max(as_of) from as_ofs where {{ only }})
            {%- if days != 'all' %}
            and {{ event_at }} >= (select min(as_of) from as_ofs where {{ only }}) - interval '{{ days }} days'
            {%- endif %}
            {%- endif %}
        {{ 'union all' if not loop.last }}
        {%- endfor %}
    ) as events
    group by {{ columns }}, first_ordinal
),

seen_stretches as (
    select
        {{ columns }},
        first_ordinal,
        least(
            last_ordinal,
            lead(first_ordinal) over (partition by {{ columns }} order by first_ordinal) - 1
        ) as last_ordinal
    from seen_first
),

seen as (
    select {{ columns_of('stretches', keys) }}, reached.ordinal
    from seen_stretches as stretches
    cross join lateral {{ series('stretches.first_ordinal', 'stretches.last_ordinal') }}
)
{%- endmacro %}


{#- The ordinal of the last as_of that looks back to an instant. -#}
{% macro last_reached(instant, days) -%}
    {%- if days == 'all' -%}
        (select max(ordinal) from as_ofs)
    {%- else -%}
        {{ as_ofs_until(instant ~ " + interval '" ~ days ~ " days'") }}
    {%- endif -%}
{%- endmacro %}
