{#- A list of no text. -#}
{% macro no_texts() -%}{{ adapter.dispatch('no_texts')() }}{%- endmacro %}

{% macro postgres__no_texts() -%}
    cast(array[] as text[])
{%- endmacro %}

{% macro spark__no_texts() -%}
    cast(array() as array<string>)
{%- endmacro %}
