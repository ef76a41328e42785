{#- Whether a list holds a value. Spark's `any` is an aggregate. -#}
{% macro is_among(value, list) -%}{{ adapter.dispatch('is_among')(value, list) }}{%- endmacro %}

{% macro postgres__is_among(value, list) -%}
    {{ value }} = any({{ list }})
{%- endmacro %}

{% macro spark__is_among(value, list) -%}
    array_contains({{ list }}, {{ value }})
{%- endmacro %}
