{#- dbt's own questions about a contract, in which Spark's adapter would use the YAML's words. -#}


{% macro spark__get_empty_schema_sql(columns) %}
    select
    {%- for name, column in columns.items() %}
        cast(null as {{ type_of(column.data_type) }}) as {{ name }}{{ ',' if not loop.last }}
    {%- endfor %}
{% endmacro %}


{#- An incremental model goes through a temporary view, of which dbt-spark checks no contract. -#}
{% macro spark__create_temporary_view(relation, compiled_code) -%}
    {%- if config.get('contract').enforced %}
        {{ get_assert_columns_equivalent(compiled_code) }}
    {%- endif %}
    create or replace temporary view {{ relation }} as
        {{ compiled_code }}
{%- endmacro %}


{#-
    Where a table lies that is made anew by each build: of one that was killed while it was made, the
    files are left and the next one takes their place. (In a folder that Spark chose they would be in
    the way for ever.)
-#}
{% macro spark__location_clause() -%}
    {%- if model.schema == 'staging' %}
    location '{{ lake_folder() }}/staging/{{ model.alias }}'
    {%- endif %}
{%- endmacro %}


{#- Versions are appended. A column that is defined no more stays in the table, null from then on. -#}
{% macro dbt_spark_get_incremental_sql(strategy, source, target, existing, unique_key, incremental_predicates) %}
    {% if strategy != 'append' %}
        {% do exceptions.raise_compiler_error(model.name ~ ': incremental_strategy is ' ~ strategy ~ ', not append') %}
    {% endif %}
    insert into table {{ target }}
    select
    {%- for column in adapter.get_columns_in_relation(target) %}
        {%- if column.name in model.columns %}
        {{ column.quoted }}
        {%- else %}
        cast(null as {{ column.dtype }}) as {{ column.quoted }}
        {%- endif %}{{ ',' if not loop.last }}
    {%- endfor %}
    from {{ source }}
{% endmacro %}
