{#- The type of a text. -#}
{% macro type_text() %}{{ return(adapter.dispatch('type_text')()) }}{% endmacro %}

{% macro postgres__type_text() %}{{ return('text') }}{% endmacro %}

{% macro spark__type_text() %}{{ return('string') }}{% endmacro %}
