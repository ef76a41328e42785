{#-
    Brings the feature tables to their definitions and writes this build's row in ledger.builds. On
    Postgres: the hook's own statements, one transaction with the lock of take_over.

    On Spark a feature table is made here, before the first row: a table of which the first build was
    killed is then like any other. A build's rows are a partition of their own.
-#}
{% macro register_build(contracts, cadence, since, recompute) -%}
    {{ adapter.dispatch('register_build')(contracts, cadence, since, recompute) }}
{%- endmacro %}

{% macro postgres__register_build(contracts, cadence, since, recompute) -%}
        {% for table in contracts.stored %}
delete from features.{{ table }} where known_at > {{ last_publication() }};
        {% endfor %}
        {#- Not left to dbt's append_new_columns, which knows a list only as "ARRAY". -#}
        {% for table, types in new_columns(contracts).items() %}
            {% for column, type in types.items() %}
alter table features.{{ table }} add column {{ adapter.quote(column) }} {{ type }};
            {% endfor %}
        {% endfor %}
        {% for table, types in widened_columns(contracts).items() %}
            {% do log('Widening ' ~ table ~ ': ' ~ tojson(types) ~ '.', info=true) %}
select ledger.retype('{{ table }}', '{{ tojson(types) }}');
        {% endfor %}
insert into ledger.builds (known_at, invocation_id, status, load_from, load_to, recompute, cadence, since)
select
    greatest(
        clock_timestamp(),
        (select max(known_at) + interval '1 microsecond' from ledger.builds)
    ),
    '{{ invocation_id }}',
    'running',
    coalesce((select load_to from ledger.publications order by known_at desc limit 1), 0),
    coalesce((select max(load_id) from raw.loads), 0),
    {{ 'true' if recompute else 'false' }},
    '{{ cadence }}',
    {{ literal(since) if since else 'null' }};
commit;
{%- endmacro %}

{% macro spark__register_build(contracts, cadence, since, recompute) -%}
    {% for table, types in widened_columns(contracts).items() %}
        {% do exceptions.raise_compiler_error(
            table ~ ': ' ~ tojson(types) ~ ' is wider than what is stored, and a table of Parquet keeps its types. '
            ~ 'Nothing was changed. Give the feature a new name, then: dbt build --target spark'
        ) %}
    {% endfor %}
    {% for node in feature_models() %}
        {% set columns = [] %}
        {% for column in node.columns.values() if column.name != 'known_at' %}
            {% do columns.append(column.name ~ ' ' ~ type_of(column.data_type)) %}
        {% endfor %}
        {% set relation = api.Relation.create(schema='features', identifier=node.name, type='table') %}
        {% if node.name not in contracts.stored %}
            {% do run_query(
                'create table if not exists ' ~ relation ~ ' (' ~ (columns | join(', ')) ~ ', known_at timestamp)'
                ~ ' using parquet partitioned by (known_at)'
            ) %}
            {% do adapter.cache_added(relation) %}
        {% endif %}
    {% endfor %}
    {% for table, types in new_columns(contracts).items() %}
        {% for column, type in types.items() %}
            {% do run_query('alter table features.' ~ table ~ ' add columns (' ~ column ~ ' ' ~ type_of(type) ~ ')') %}
        {% endfor %}
    {% endfor %}
    {% do run_query(
        'insert into ledger.builds select greatest(current_timestamp(),'
        ~ " (select max(known_at) + interval '1' microsecond from ledger.builds)), " ~ literal(invocation_id)
        ~ ', coalesce((select max_by(load_to, known_at) from ledger.publications), 0),'
        ~ ' coalesce((select max(load_id) from raw.loads), 0), ' ~ ('true' if recompute else 'false') ~ ', '
        ~ literal(cadence) ~ ', ' ~ (instant_literal(since) if since else 'cast(null as timestamp)')
    ) %}
    {% do graph.update({'streamflow_started': invocation_id}) %}
{%- endmacro %}
