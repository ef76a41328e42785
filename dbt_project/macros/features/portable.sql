{#- The same on every engine; what differs stands in macros/engine (docs/decisions/0011). -#}
{% macro instant_literal(text) -%}
    cast('{{ text }}' as {{ type_instant() }})
{%- endmacro %}

{#- One division of two exact integers, at the very end: equal to the bit on every engine. -#}
{% macro ratio(numerator, denominator) -%}
    cast({{ numerator }} as {{ type_double() }}) / nullif(cast({{ denominator }} as {{ type_double() }}), 0)
{%- endmacro %}
