{#- Microseconds between two instants, exact; as for whole_days. -#}
{% macro microseconds(since, until) -%}{{ adapter.dispatch('microseconds')(since, until) }}{%- endmacro %}

{% macro postgres__microseconds(since, until) -%}
    cast(extract(epoch from {{ until }} - {{ since }}) * 1000000 as bigint)
{%- endmacro %}

{% macro spark__microseconds(since, until) -%}
    (unix_micros({{ until }}) - unix_micros({{ since }}))
{%- endmacro %}
