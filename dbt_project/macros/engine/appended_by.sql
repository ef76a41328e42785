{#- How many versions a model appended, by its result. Spark tells no number: the build's rows are counted. -#}
{% macro appended_by(result) %}{{ return(adapter.dispatch('appended_by')(result)) }}{% endmacro %}

{% macro postgres__appended_by(result) %}
    {{ return((result.adapter_response or {}).get('rows_affected', 0) | int) }}
{% endmacro %}

{% macro spark__appended_by(result) %}
    {% if result.status != 'success' %}
        {{ return(0) }}
    {% endif %}
    {{ return(run_query(
        'select count(*) from features.' ~ result.node.alias ~ ' where known_at = '
        ~ instant_literal(current_build().known_at)
    ).rows[0][0] | int) }}
{% endmacro %}
