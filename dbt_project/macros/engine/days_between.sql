{#- Whole days between two dates. Spark makes an interval of their difference. -#}
{% macro days_between(since, until) -%}{{ adapter.dispatch('days_between')(since, until) }}{%- endmacro %}

{% macro postgres__days_between(since, until) -%}
    cast({{ until }} - {{ since }} as bigint)
{%- endmacro %}

{% macro spark__days_between(since, until) -%}
    cast(datediff({{ until }}, {{ since }}) as bigint)
{%- endmacro %}
