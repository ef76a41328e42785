{#-
    Drops what builds made that were not published, in the database and in `contracts`; see
    never_published. Parquet tables of Spark lose no column: one that was never published stays, unseen.
-#}
{% macro drop_unpublished(contracts) %}
    {% set leavings = never_published(contracts) %}
    {% for table in leavings.tables %}
        {#- By the adapter, which then knows that the model has to make the table. -#}
        {% set relation = adapter.get_relation(target.database, 'features', table) %}
        {% if relation %}
            {% do adapter.drop_relation(relation) %}
        {% endif %}
    {% endfor %}
    {% do adapter.dispatch('drop_columns')(leavings.columns) %}
    {% do forget_unpublished(contracts, leavings) %}
{% endmacro %}

{% macro postgres__drop_columns(columns_of_tables) %}
    {% for table, columns in columns_of_tables.items() %}
        {% for column in columns %}
            {% do run_query('alter table features.' ~ table ~ ' drop column ' ~ adapter.quote(column)) %}
        {% endfor %}
    {% endfor %}
{% endmacro %}

{% macro spark__drop_columns(columns_of_tables) %}
    {% for columns in columns_of_tables.values() %}
        {% do columns.clear() %}
    {% endfor %}
{% endmacro %}
