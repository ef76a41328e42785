{#-
    The as_of's as seen with the loads up to `horizon`: those of the drops, or of a calendar up to the
    newest of them. A drop counts that has a state of which a spine is made; where there is none at
    all, any drop does.

    since   the calendar's first instant, see calendar_start
-#}
{% macro as_ofs(loads, horizon, since) %}
    {%- set cadence = current_build().cadence -%}
    {%- if cadence == 'drops' -%}
    {{ counted_drops(loads, horizon) }}
    {%- else -%}
    select {{ utc_instant('instant') }} as as_of
    from (
        select {{ calendar_instants(cadence, 'first_as_of', 'last_as_of') }} as instant, first_as_of
        from (
            select {{ instant_literal(since) if since else 'min(as_of)' }} as first_as_of, max(as_of) as last_as_of
            from ({{ counted_drops(loads, horizon) }}) as drops
        ) as reach
    ) as instants
    where {{ utc_instant('instant') }} >= first_as_of
    {%- endif -%}
{% endmacro %}


{% macro counted_drops(loads, horizon) -%}
    select distinct as_of
    from {{ loads }}
    where
        load_id <= {{ horizon }}
        and (
            table_name in ({{ spine_states() }})
            or not exists (
                select 1 from {{ loads }}
                where load_id <= {{ horizon }} and table_name in ({{ spine_states() }})
            )
        )
{%- endmacro %}


{#-
    The first instant of a calendar, as text: that of the first drop, or an earlier one from which on
    there are events in that drop and somebody whom they can be about, so that one export of years
    gives years. One event of a thousand may lie before it: a year that was mistyped in one row makes
    no calendar of decades. None for the cadence `drops`.

    With no load since, as published: the first drop is not read again.
-#}
{% macro calendar_start(cadence) %}
    {% if cadence == 'drops' %}
        {{ return(none) }}
    {% endif %}
    {% set before = run_query(
        'select cadence, cast(since as ' ~ type_text() ~ '), load_to >= coalesce((select max(load_id) from raw.loads), 0)'
        ~ ' from ledger.publications order by known_at desc limit 1'
    ).rows %}
    {% if before and before[0][0] == cadence and before[0][1] and before[0][2] %}
        {{ return(before[0][1]) }}
    {% endif %}
    {% set horizon = '(select coalesce(max(load_id), 0) from raw.loads)' %}
    {% set first = '(select min(as_of) from (' ~ counted_drops('raw.loads', horizon) ~ ') as drops)' %}
    {% set in_first_drop = 'as_of = ' ~ first ~ ' and superseded_by is null' %}
    {% set events, signups = [], [] %}
    {% for source in graph.sources.values() if source.source_name == 'raw' %}
        {% set meta = source.config.meta or source.meta or {} %}
        {% if meta.get('grain') == 'event' %}
            {% do events.append('select ' ~ meta.event_time ~ ' as at from ' ~ source.relation_name
                ~ ' where ' ~ in_first_drop) %}
        {% endif %}
    {% endfor %}
    {% for entity in entities().values() if entity.made_from.get('since') %}
        {% do signups.append('select ' ~ utc_instant(entity.made_from.since ~ ' + 1') ~ ' as at from '
            ~ raw_table(entity.made_from.state, ['state']).relation ~ ' where ' ~ in_first_drop) %}
    {% endfor %}
    {% set nobody = ['select cast(null as ' ~ type_instant() ~ ') as at where false'] %}
    {{ return(run_query(
        "select cast(coalesce((select least(first.as_of, greatest(events.at + interval '1 microsecond', signups.at))"
        ~ ' from (select ' ~ first ~ ' as as_of) as first,'
        ~ ' (select ' ~ first_thousandth('at') ~ ' as at from ('
        ~ ((events or nobody) | join(' union all ')) ~ ') as told) as events,'
        ~ ' (select min(at) as at from (' ~ ((signups or nobody) | join(' union all ')) ~ ') as told) as signups'
        ~ ' where events.at is not null), ' ~ first ~ ') as ' ~ type_text() ~ ')'
    ).rows[0][0]) }}
{% endmacro %}


{#- Whether the last publication had as_of's that there are no more: nobody would take those back. -#}
{% macro fewer_as_ofs(since) %}
    {% set now = '(select coalesce(max(load_id), 0) from raw.loads)' %}
    {% set then = '(select load_to from ledger.publications order by known_at desc limit 1)' %}
    {% set before = published('since') %}
    {{ return(run_query(
        'select ' ~ (instant_literal(since) ~ ' > ' ~ instant_literal(before) if since and before else 'false')
        ~ ' or exists (' ~ counted_drops('raw.loads', then) ~ ' except '
        ~ counted_drops('raw.loads', now) ~ ')'
    ).rows[0][0]) }}
{% endmacro %}


{#- The raw tables of state that spines are made from, as a list in SQL. -#}
{% macro spine_states() -%}
    {%- set tables = [] -%}
    {%- for entity in entities().values() if 'state' in entity.made_from -%}
        {%- do tables.append(literal(entity.made_from.state)) -%}
    {%- endfor -%}
    {{ tables | unique | join(', ') or "''" }}
{%- endmacro %}


{#- The raw tables of state of which a drop is looked up for each as_of. -#}
{% macro looked_up_states() -%}
    {%- set tables = [spine_states()] -%}
    {%- for view in feature_models() -%}
        {%- for table in view.config.meta.get('made_from', {}).get('latest', []) -%}
            {%- do tables.append(literal(table)) -%}
        {%- endfor -%}
    {%- endfor -%}
    {{ tables | unique | join(', ') }}
{%- endmacro %}


{#- [(table, column or '')] whose capture some feature model depends on. -#}
{% macro looked_up_captures() %}
    {% set found = [] %}
    {% for view in feature_models() %}
        {% for of in view.config.meta.get('made_from', {}).get('events', []) %}
            {% for column in [''] + of.may_lack if (of.table, column) not in found %}
                {% do found.append((of.table, column)) %}
            {% endfor %}
        {% endfor %}
    {% endfor %}
    {{ return(found) }}
{% endmacro %}
