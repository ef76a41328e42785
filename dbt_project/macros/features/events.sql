{#-
    An event table that a feature model looks at, said once at the model's top:

        {% set usage = events('usage', at='started_at', reach_days=90, may_lack=['skips']) %}

    table       the raw table; stg_<table> is what the model reads
    at          its event time (said here too, because dbt's unit tests see no declaration)
    reach_days  how far back any feature of the model looks, or 'all': an event that comes late is
                taken to change the pairs within that reach, and no others
    by          the join keys by which an event concerns a pair; all of the entity's if not said. A
                user's session on one device concerns each of the user's devices: by=['user_id']
    may_lack    columns which a file may lack (docs/decisions/0014) and the features depend on

    What it gives: `usage.relation`; `usage.window(30)`, a condition on rows of `usage` beside a row
    of `pairs`; `usage.covered(30)`, whether "no event" means zero, of a row of `measured`.
-#}
{% macro events(table, at, reach_days, by=none, may_lack=[]) %}
    {%- do require_days(reach_days, "events('" ~ table ~ "', reach_days=" ~ tojson(reach_days) ~ ')') -%}
    {%- if graph_is_known() and raw_table(table, ['event']).event_time != at -%}
        {%- do exceptions.raise_compiler_error(
            "events('" ~ table ~ "', at='" ~ at ~ "'): the event time of " ~ table ~ ' is '
            ~ raw_table(table, ['event']).event_time ~ ' (models/staging/_sources.yml)'
        ) -%}
    {%- endif -%}
    {%- set declared = {
        'table': table,
        'at': at,
        'reach_days': reach_days,
        'by': by,
        'may_lack': may_lack,
        'relation': ref('stg_' ~ table),
    } -%}
    {#- Jinja's way to make a function that remembers: the block is `caller` to the macro it calls. -#}
    {%- call(days=none, as_of='pairs.as_of') as_function_of(declared, 'window') -%}
        {{- in_window(declared, days, as_of) -}}
    {%- endcall -%}
    {%- call(days, column=none, of='measured') as_function_of(declared, 'covered') -%}
        {{- is_covered(declared, days, column, of) -}}
    {%- endcall -%}
    {{ return(declared) }}
{% endmacro %}


{% macro as_function_of(object, name) %}
    {% do object.update({name: caller}) %}
{% endmacro %}


{#-
    Half-open: an event exactly `days` before as_of is in, one exactly at as_of is not.

    days    a whole number, at most the reach, or 'all'; the whole reach if not said
    as_of   a column, not an expression: what lies before it counts against the reach
-#}
{% macro in_window(declared, days, as_of) -%}
    {%- set days = declared.reach_days if days is none else days -%}
    {%- set said = declared.table ~ '.window(' ~ tojson(days) ~ ')' -%}
    {%- do require_days(days, said) -%}
    {%- if declared.reach_days != 'all' and (days == 'all' or days > declared.reach_days) -%}
        {%- do exceptions.raise_compiler_error(
            said ~ ': a window of ' ~ days ~ ' days, and ' ~ declared.table ~ ' is looked back '
            ~ declared.reach_days ~ " days. At the model's top, say events('" ~ declared.table
            ~ "', reach_days=" ~ tojson(days) ~ ')'
        ) -%}
    {%- endif -%}
    {%- if not modules.re.match('^[A-Za-z_][A-Za-z_0-9.]*$', as_of | string) -%}
        {%- do exceptions.raise_compiler_error(
            said ~ ", as_of='" ~ as_of ~ "': as_of is a column. For a window that ended earlier, take one "
            ~ 'window less the other: ' ~ declared.table ~ '.window(60) and not ' ~ declared.table ~ '.window(30)'
        ) -%}
    {%- endif -%}
    {%- set event_at = declared.table ~ '.' ~ declared.at -%}
    {%- if days == 'all' -%}
        ({{ event_at }} < {{ as_of }})
    {%- else -%}
        ({{ event_at }} >= {{ as_of }} - interval '{{ days }} days' and {{ event_at }} < {{ as_of }})
    {%- endif -%}
{%- endmacro %}


{#- Whether events, or a column of theirs, were captured in all of the `days` before as_of. -#}
{% macro is_covered(declared, days, column, of) -%}
    {%- set said = declared.table ~ '.covered(' ~ tojson(days) ~ (', column=' ~ tojson(column) if column) ~ ')' -%}
    {%- do require_days(days, said) -%}
    {%- if column and column not in declared.may_lack -%}
        {%- do exceptions.raise_compiler_error(
            said ~ ": the model's top does not say that files may lack " ~ column ~ ". Say there events('"
            ~ declared.table ~ "', reach_days=" ~ tojson(declared.reach_days) ~ ', may_lack='
            ~ tojson(declared.may_lack + [column]) ~ ')'
        ) -%}
    {%- endif -%}
    {%- set since = of ~ '.' ~ since_column(declared.table, column) -%}
    {%- if days == 'all' -%}
        ({{ since }} is null)
    {%- else -%}
        coalesce({{ since }} <= {{ of }}.as_of - interval '{{ days }} days', true)
    {%- endif -%}
{%- endmacro %}


{#- Of a pair: since when a table's events, or a column of theirs, are captured without a gap. -#}
{% macro since_column(table, column=none) -%}
    {{ return(table ~ ('_' ~ column if column else '') ~ '_since') }}
{%- endmacro %}


{% macro require_days(days, said) %}
    {% if days != 'all' and (days is not integer or days is boolean or days < 1) %}
        {% do exceptions.raise_compiler_error(said ~ ": days is a whole number from 1 on, or 'all'") %}
    {% endif %}
{% endmacro %}
