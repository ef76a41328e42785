{#- A double of 64 bits. (dbt.type_float() is one of 32 bits on Spark.) -#}
{% macro type_double() %}{{ return(adapter.dispatch('type_double')()) }}{% endmacro %}

{% macro postgres__type_double() %}{{ return('double precision') }}{% endmacro %}

{% macro spark__type_double() %}{{ return('double') }}{% endmacro %}
