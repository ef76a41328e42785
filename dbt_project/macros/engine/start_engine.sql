{#-
    What has to be there before the first question: on Postgres nothing, `python -m data setup` made it.

    On Spark the schemas, the ledger, and the raw tables over the files of the lake (data/lake/files.py
    writes them), by their declaration. A raw table is a view: its rows, and since when they are out of
    effect. And dbt-spark asks each session for spark.sql.ansi.enabled = false, under which a cast that
    fails is null and a sum that overflows wraps: it is asked for the opposite, and require_ansi looks.
-#}
{% macro start_engine() %}{{ adapter.dispatch('start_engine')() }}{% endmacro %}

{% macro postgres__start_engine() %}{% endmacro %}

{% macro spark__start_engine() %}
    {% do adapter.config.credentials.server_side_parameters.update({'spark.sql.ansi.enabled': 'true'}) %}
    {% do run_query('set spark.sql.ansi.enabled = true') %}
    {% do require_ansi() %}
    {% for schema in ['raw', 'staging', 'features', 'published', 'ledger'] %}
        {% do run_query('create schema if not exists ' ~ schema) %}
    {% endfor %}
    {% do ledger_table(
        'builds', 'known_at timestamp, invocation_id string, load_from bigint, load_to bigint, recompute boolean, '
        ~ 'cadence string, since timestamp'
    ) %}
    {% do ledger_table(
        'tests', 'invocation_id string, test_id string, name string, kind string, status string, failures bigint, '
        ~ 'message string, seconds double'
    ) %}
    {% do ledger_table(
        'publications', 'known_at timestamp, invocation_id string, code_version string, load_to bigint, '
        ~ 'cadence string, since timestamp, rows_appended string, definitions string, manifest string, '
        ~ 'tests_run bigint, published_at timestamp'
    ) %}
    {% set lake = lake_folder() %}
    {#- Loads add files and folders without asking the catalog, so it must not remember which there are. -#}
    {% do run_query('set spark.sql.hive.manageFilesourcePartitions = false') %}
    {% do raw_part(
        'loads', 'load_id bigint, table_name string, as_of timestamp, loaded_at timestamp, rows_read bigint, '
        ~ 'rows_added bigint, rows_retracted bigint, sha256 string, recorded array<string>', lake
    ) %}
    {% for source in graph.sources.values() if source.source_name == 'raw' and source.name != 'loads' %}
        {% do raw_view(source, lake) %}
    {% endfor %}
    {% do run_query('set spark.sql.hive.manageFilesourcePartitions = true') %}
    {% do show_published() %}
{% endmacro %}


{% macro ledger_table(name, columns) %}
    {% do run_query('create table if not exists ledger.' ~ name ~ ' (' ~ columns ~ ') using parquet') %}
    {% do run_query('refresh table ledger.' ~ name) %}
{% endmacro %}


{#- A table over a folder of the lake. It is made again where the declaration gained a column. -#}
{% macro raw_part(name, columns, lake, partition='') %}
    {% set there = run_query("show tables in raw like '" ~ name ~ "'").rows %}
    {% set wanted = columns ~ (', ' ~ partition if partition) %}
    {% if there %}
        {% set found = [] %}
        {% for column in adapter.get_columns_in_relation(api.Relation.create(schema='raw', identifier=name)) %}
            {% do found.append(column.name ~ ' ' ~ column.dtype) %}
        {% endfor %}
        {% if found | join(', ') != wanted %}
            {% do run_query('drop table raw.' ~ name) %}
        {% endif %}
    {% endif %}
    {% do run_query(
        'create table if not exists raw.' ~ name ~ ' (' ~ wanted ~ ') using parquet'
        ~ (' partitioned by (' ~ partition.split(' ')[0] ~ ')' if partition)
        ~ " location '" ~ lake ~ '/raw/' ~ name ~ "'"
    ) %}
    {% do run_query('refresh table raw.' ~ name) %}
{% endmacro %}


{% macro raw_view(source, lake) %}
    {% set name, key = source.name, (source.config.meta or source.meta).key %}
    {% set columns, keys = [], [] %}
    {% for column in source.columns.values() %}
        {% do columns.append(column.name ~ ' ' ~ type_of(column.data_type)) %}
        {% if column.name in key %}
            {% do keys.append(column.name ~ ' ' ~ type_of(column.data_type)) %}
        {% endif %}
    {% endfor %}
    {% set of_load = 'load_id bigint' %}
    {% do raw_part(name ~ '_rows', (columns + [of_load, 'loaded_at timestamp']) | join(', '), lake, 'as_of timestamp') %}
    {% do raw_part(
        name ~ '_superseded', (keys + ['as_of timestamp', of_load, 'superseded_by bigint']) | join(', '), lake
    ) %}
    {% do run_query(
        'create or replace view ' ~ source.relation_name ~ ' as select stated.*, gone.superseded_by from raw.' ~ name
        ~ '_rows as stated left join raw.' ~ name ~ '_superseded as gone on '
        ~ same(key + ['as_of', 'load_id'], 'stated', 'gone')
    ) %}
{% endmacro %}


{#- Where the lake lies: STREAMFLOW_LAKE, or where the catalog keeps its tables. -#}
{% macro lake_folder() %}
    {% set warehouse = run_query('set spark.sql.warehouse.dir').rows[0][1] if execute else '' %}
    {{ return(env_var('STREAMFLOW_LAKE', '') or modules.re.sub('/warehouse/?$', '', warehouse)) }}
{% endmacro %}
