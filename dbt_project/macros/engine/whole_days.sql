{#- Whole days between two instants, rounded down. Spark has no epoch of an interval,
    and its `div` rounds towards zero. -#}
{% macro whole_days(since, until) -%}{{ adapter.dispatch('whole_days')(since, until) }}{%- endmacro %}

{% macro postgres__whole_days(since, until) -%}
    cast(floor(extract(epoch from {{ until }} - {{ since }}) / 86400) as bigint)
{%- endmacro %}

{% macro spark__whole_days(since, until) -%}
    {%- set between = '(unix_micros(' ~ until ~ ') - unix_micros(' ~ since ~ '))' %}
    (({{ between }} - pmod({{ between }}, 86400000000)) div 86400000000)
{%- endmacro %}
