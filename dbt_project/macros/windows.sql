{#- Half-open: an event exactly `days` before as_of is in, one exactly at as_of is not. -#}
{% macro in_days(event_at, days, as_of='as_of') -%}
    {{ event_at }} >= {{ as_of }} - interval '{{ days }} days' and {{ event_at }} < {{ as_of }}
{%- endmacro %}


{#-
    Whether events cover the `days` before as_of: only then does "no event" mean zero.
    captured_since: see spine_as_of.
-#}
{% macro covered(captured_since, days, as_of='as_of') -%}
    coalesce({{ captured_since }} <= {{ as_of }} - interval '{{ days }} days', true)
{%- endmacro %}


{#- How far back the features of each event table look, in days: see spine_changes. -#}
{% macro longest_window(table) -%}
    {{ return({'usage': 90, 'payments': 180, 'support': 180}[table]) }}
{%- endmacro %}
