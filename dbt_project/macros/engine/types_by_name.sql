{#- {type as a YAML has it: type by Postgres's own name}. Where Spark builds there is no Postgres to ask. -#}
{% macro types_by_name(types) %}{{ return(adapter.dispatch('types_by_name')(types)) }}{% endmacro %}

{% macro postgres__types_by_name(types) %}
    {% set found = {} %}
    {% for row in run_query(
        "select type, case to_regtype(type)::text when 'character varying' then 'text'"
        ~ " else coalesce(to_regtype(type)::text, type) end"
        ~ " from jsonb_array_elements_text('" ~ (tojson(types) | replace("'", "''")) ~ "') as type"
    ) %}
        {% do found.update({row[0]: row[1]}) %}
    {% endfor %}
    {{ return(found) }}
{% endmacro %}

{% macro spark__types_by_name(types) %}
    {% set found = {} %}
    {% for type in types %}
        {% do found.update({type: canonical_type(type)}) %}
    {% endfor %}
    {{ return(found) }}
{% endmacro %}
