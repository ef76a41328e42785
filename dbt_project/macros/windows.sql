{#-
    How far back the features of each event table look, in days, and by which instant: a late event
    is taken to change the pairs within that reach, and no others (see spine_changes). A longer
    window needs a longer reach here; the next build then computes everything again. Each aggregate
    states its own window: the reach is only where the reading stops.
-#}
{% macro reaches() %}
    {{ return({
        'usage': {'at': 'started_at', 'days': 90},
        'payments': {'at': 'attempted_at', 'days': 180},
        'support': {'at': 'opened_at', 'days': 180},
    }) }}
{% endmacro %}


{% macro longest_window(table) -%}
    {{ return(reaches()[table].days) }}
{%- endmacro %}


{#-
    Half-open: an event exactly `days` before as_of is in, one exactly at as_of is not.

    event_at   the instant of an event table, see reaches; with or without its table's name
    days       a whole number, at most the reach of that table
    as_of      a column, not an expression: what lies before it counts against the reach
-#}
{% macro in_days(event_at, days, as_of='as_of') -%}
    {%- set call = "in_days('" ~ event_at ~ "', " ~ days ~ ", '" ~ as_of ~ "')" -%}
    {%- set column = (event_at | string).split('.') | last -%}
    {%- set reach = reaches() | dictsort | selectattr('1.at', 'equalto', column) | list -%}
    {%- if not reach -%}
        {%- do exceptions.raise_compiler_error(
            call ~ ': ' ~ column ~ ' is not the instant of an event table. There are: '
            ~ (reaches().values() | map(attribute='at') | join(', ')) ~ ' (macros/windows.sql)'
        ) -%}
    {%- endif -%}
    {%- if days is not integer or days is boolean or days < 1 -%}
        {%- do exceptions.raise_compiler_error(call ~ ': days is a whole number from 1 on') -%}
    {%- endif -%}
    {%- if days > reach[0][1].days -%}
        {%- do exceptions.raise_compiler_error(
            call ~ ': a window of ' ~ days ~ ' days, and ' ~ reach[0][0] ~ ' is looked back '
            ~ reach[0][1].days ~ ' days. Raise that to ' ~ days ~ ' in macros/windows.sql (reaches)'
        ) -%}
    {%- endif -%}
    {%- if not modules.re.match('^[A-Za-z_][A-Za-z_0-9.]*$', as_of | string) -%}
        {%- do exceptions.raise_compiler_error(
            call ~ ': as_of is a column. For a window that ended earlier, take one window less the other: '
            ~ "in_days(" ~ "'" ~ event_at ~ "', 60) and not in_days('" ~ event_at ~ "', 30)"
        ) -%}
    {%- endif -%}
    {{ event_at }} >= {{ as_of }} - interval '{{ days }} days' and {{ event_at }} < {{ as_of }}
{%- endmacro %}


{#-
    Whether events cover the `days` before as_of: only then does "no event" mean zero.
    captured_since: see spine_as_of.
-#}
{% macro covered(captured_since, days, as_of='as_of') -%}
    {%- if days is not integer or days is boolean or days < 1 -%}
        {%- do exceptions.raise_compiler_error(
            "covered('" ~ captured_since ~ "', " ~ days ~ '): days is a whole number from 1 on'
        ) -%}
    {%- endif -%}
    coalesce({{ captured_since }} <= {{ as_of }} - interval '{{ days }} days', true)
{%- endmacro %}
