{#- The columns of a table in any publication; Spark asks no JSON that it has to unfold. -#}
{% macro ever_published(table) %}{{ return(adapter.dispatch('ever_published')(table)) }}{% endmacro %}

{% macro postgres__ever_published(table) %}
    {{ return(run_query(
        "select distinct json_object_keys(node -> 'columns') from ledger.publications"
        ~ " cross join json_each(manifest -> 'nodes') as nodes (id, node)"
        ~ " where node ->> 'resource_type' = 'model' and node ->> 'name' = '" ~ table ~ "'"
    ).columns[0].values() | list) }}
{% endmacro %}

{% macro spark__ever_published(table) %}
    {% set found = [] %}
    {% for row in run_query('select manifest from ledger.publications').rows %}
        {% for node in fromjson(row[0]).nodes.values() if node.name == table %}
            {% do found.extend(node.columns.keys()) %}
        {% endfor %}
    {% endfor %}
    {{ return(found | unique | list) }}
{% endmacro %}
