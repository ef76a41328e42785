{#-
    The switch: this build's row in ledger.publications, and the views that show its columns; and its
    counterpart for a build that is not published.

    On Postgres both are one statement of ledger.sql. On Spark the row is the switch: one file, which
    appears whole or not at all. The views are made again only where the columns changed, and again by
    the next build, if this one is killed between the two (start_engine).
-#}
{% macro publish_build(code_version, appended, definitions, tests_run) -%}
    {{ adapter.dispatch('publish_build')(code_version, appended, definitions, tests_run) }}
{%- endmacro %}

{% macro postgres__publish_build(code_version, appended, definitions, tests_run) -%}
select ledger.publish(
    '{{ invocation_id }}',
    {{ literal(code_version) }},
    {{ literal(tojson(appended)) }},
    {{ literal(tojson(definitions)) }},
    {{ literal(tojson(kept_manifest())) }},
    {{ tests_run }}
);
commit;
{%- endmacro %}

{% macro spark__publish_build(code_version, appended, definitions, tests_run) -%}
    {% set build = current_build() %}
    {% do run_query('refresh table ledger.builds') %}
    {% if run_query('select max_by(invocation_id, known_at) from ledger.builds').rows[0][0] != invocation_id %}
        {% do exceptions.raise_compiler_error(
            'this build was taken over by a later one; nothing of it is published'
        ) %}
    {% endif %}
    {% do run_query(
        'insert into ledger.publications select ' ~ instant_literal(build.known_at) ~ ', ' ~ literal(invocation_id)
        ~ ', ' ~ literal(code_version) ~ ', ' ~ build.load_to ~ ', ' ~ literal(build.cadence) ~ ', '
        ~ (instant_literal(build.since) if build.since else 'cast(null as timestamp)') ~ ', '
        ~ literal(tojson(appended)) ~ ', ' ~ literal(tojson(definitions)) ~ ', ' ~ literal(tojson(kept_manifest()))
        ~ ', ' ~ tests_run ~ ', current_timestamp()'
    ) %}
    {% do show_published() %}
{%- endmacro %}


{% macro close_build() -%}{{ adapter.dispatch('close_build')() }}{%- endmacro %}

{% macro postgres__close_build() -%}
update ledger.builds set status = 'unpublished', ended_at = clock_timestamp()
where invocation_id = '{{ invocation_id }}' and status = 'running';
commit;
{%- endmacro %}

{% macro spark__close_build() -%}{%- endmacro %}


{#- Has Spark's views `published.<table>` and `_latest` show what the last publication says. -#}
{% macro show_published() %}
    {% set shown = {} %}
    {% for row in run_query('show views in published').rows %}
        {% do shown.update({row[1]: true}) %}
    {% endfor %}
    {% set nodes = fromjson(published('manifest') or '{"nodes": {}}').nodes %}
    {% set keys_of = {} %}
    {% for node in nodes.values() if node.config and node.config.meta.get('entity') %}
        {% do keys_of.update({node.config.meta.entity.name: node.config.meta.entity.join_keys.keys() | list}) %}
    {% endfor %}
    {% set wanted = [] %}
    {% for node in nodes.values() if node.get('columns') %}
        {% set columns = node.columns.keys() | list %}
        {% set view = api.Relation.create(schema='published', identifier=node.name) %}
        {% set latest = node.name ~ '_latest' %}
        {% do wanted.extend([node.name, latest]) %}
        {% set there = adapter.get_columns_in_relation(view) | map(attribute='name') | list if node.name in shown else [] %}
        {% if there != columns or latest not in shown %}
            {% do run_query(
                'create or replace view ' ~ view ~ ' as select ' ~ (columns | join(', ')) ~ ' from features.' ~ node.name
                ~ ' where known_at <= (select max(known_at) from ledger.publications)'
            ) %}
            {% set meta = node.config.meta %}
            {% set entity = meta.get('made_from', {}).get('entity') or meta.feast.entity %}
            {% do run_query(
                'create or replace view published.' ~ latest ~ ' as select ' ~ (columns | join(', ')) ~ ' from ('
                ~ first_of_each(keys_of[entity] + ['as_of'], columns, 'known_at', 'select * from ' ~ view)
                ~ ') as newest where not is_retracted'
            ) %}
        {% endif %}
    {% endfor %}
    {% for view in shown if view not in wanted %}
        {% do run_query('drop view if exists published.' ~ view) %}
    {% endfor %}
{% endmacro %}
