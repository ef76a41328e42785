{#-
    True of every row; it does not parse where the CTE has another number of columns, so one that the
    YAML does not name. Spark compares two structs only where their fields are of the same types.
-#}
{% macro has_columns(cte, columns) -%}{{ adapter.dispatch('has_columns')(cte, columns) }}{%- endmacro %}

{% macro postgres__has_columns(cte, columns) -%}
    row({{ cte }}.*) is distinct from row({{ (['null'] * columns | length) | join(', ') }})
{%- endmacro %}

{% macro spark__has_columns(cte, columns) -%}
    coalesce(
        array(struct({{ cte }}.*), struct({{ columns_of(cte, columns) }})) is not null, true
    )
{%- endmacro %}
