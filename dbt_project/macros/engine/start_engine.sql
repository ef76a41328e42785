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
    {% do raw_tables() %}
    {% do show_published() %}
{% endmacro %}


{% macro ledger_table(name, columns) %}
    {% do run_query(
        'create table if not exists ledger.' ~ name ~ ' (' ~ columns ~ ") using parquet location '" ~ lake_folder()
        ~ '/ledger/' ~ name ~ "'"
    ) %}
    {% do run_query('refresh table ledger.' ~ name) %}
{% endmacro %}


{#-
    The raw tables of the catalog, as they are declared. They are made again where the declaration
    changed: of one that is no more than files in a folder, nothing is lost by that.
-#}
{% macro raw_tables() %}
    {% set lake = lake_folder() %}
    {% set statements, parts = [], [] %}
    {% do raw_part(
        'loads', 'load_id bigint, table_name string, as_of timestamp, loaded_at timestamp, rows_read bigint, '
        ~ 'rows_added bigint, rows_retracted bigint, sha256 string, recorded array<string>', lake, parts, statements
    ) %}
    {% for source in graph.sources.values() | sort(attribute='name')
        if source.source_name == 'raw' and source.name != 'loads' %}
        {% do raw_view(source, lake, parts, statements) %}
    {% endfor %}
    {% set wanted = local_md5(statements | join(';')) %}
    {% set there = run_query("show tables in raw like 'loads'").rows | length > 0 %}
    {% if not there or run_query("show tblproperties raw.loads ('declaration')").rows[0][1] != wanted %}
        {#- Loads add files and folders without asking the catalog, so it must not remember them. -#}
        {% do run_query('set spark.sql.hive.manageFilesourcePartitions = false') %}
        {% for statement in statements %}
            {% do run_query(statement) %}
        {% endfor %}
        {% do run_query('set spark.sql.hive.manageFilesourcePartitions = true') %}
        {% do run_query("alter table raw.loads set tblproperties ('declaration' = '" ~ wanted ~ "')") %}
    {% endif %}
    {% for part in parts %}
        {% do run_query('refresh table raw.' ~ part) %}
    {% endfor %}
{% endmacro %}


{#- Adds the statements for a table over a folder of the lake. -#}
{% macro raw_part(name, columns, lake, parts, statements, partition='') %}
    {% do parts.append(name) %}
    {% do statements.append('drop table if exists raw.' ~ name) %}
    {% do statements.append(
        'create table raw.' ~ name ~ ' (' ~ columns ~ (', ' ~ partition if partition) ~ ') using parquet'
        ~ (' partitioned by (' ~ partition.split(' ')[0] ~ ')' if partition)
        ~ " location '" ~ lake ~ '/raw/' ~ name ~ "'"
    ) %}
{% endmacro %}


{% macro raw_view(source, lake, parts, statements) %}
    {% set name, key = source.name, (source.config.meta or source.meta).key %}
    {% set columns, keys = [], [] %}
    {% for column in source.columns.values() %}
        {% do columns.append(column.name ~ ' ' ~ type_of(column.data_type)) %}
        {% if column.name in key %}
            {% do keys.append(column.name ~ ' ' ~ type_of(column.data_type)) %}
        {% endif %}
    {% endfor %}
    {% set of_load = ['load_id bigint', 'loaded_at timestamp'] %}
    {% do raw_part(name ~ '_rows', (columns + of_load) | join(', '), lake, parts, statements, 'as_of timestamp') %}
    {% set gone = keys + ['as_of timestamp', 'load_id bigint', 'superseded_by bigint'] %}
    {% do raw_part(name ~ '_superseded', gone | join(', '), lake, parts, statements) %}
    {% do statements.append(
        'create or replace view ' ~ source.relation_name ~ ' as select stated.*, gone.superseded_by from raw.' ~ name
        ~ '_rows as stated left join raw.' ~ name ~ '_superseded as gone on '
        ~ same(key + ['as_of', 'load_id'], 'stated', 'gone')
    ) %}
{% endmacro %}


{#- Where the lake lies: STREAMFLOW_LAKE, or where the catalog keeps its tables. -#}
{% macro lake_folder() %}
    {% set warehouse = run_query('set spark.sql.warehouse.dir').rows[0][1] if execute else '' %}
    {% set lake = env_var('STREAMFLOW_LAKE', '') or modules.re.sub('/warehouse/?$', '', warehouse) %}
    {% if execute and not modules.re.match('^(/|[a-z0-9]+:)', lake) %}
        {% do exceptions.raise_compiler_error(
            "STREAMFLOW_LAKE is '" ~ lake ~ "', which each program would take from where it stands; give the whole path"
        ) %}
    {% endif %}
    {{ return(lake) }}
{% endmacro %}
