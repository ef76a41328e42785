{#- A text as SQL. Spark also takes a backslash for the beginning of something. -#}
{% macro literal(text) -%}{{ adapter.dispatch('literal')(text) }}{%- endmacro %}

{% macro postgres__literal(text) -%}
    '{{ text | string | replace("'", "''") }}'
{%- endmacro %}

{% macro spark__literal(text) -%}
    '{{ text | string | replace("\\", "\\\\") | replace("'", "\\'") }}'
{%- endmacro %}
