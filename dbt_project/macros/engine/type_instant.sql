{#- The type of an instant. Spark has one `timestamp`, which is an instant. -#}
{% macro type_instant() %}{{ return(adapter.dispatch('type_instant')()) }}{% endmacro %}

{% macro postgres__type_instant() %}{{ return('timestamp with time zone') }}{% endmacro %}

{% macro spark__type_instant() %}{{ return('timestamp') }}{% endmacro %}
