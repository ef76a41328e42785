{#-
    on-run-end: publishes the build, or says why not and what to do.

    Published means: one row in ledger.publications. It is written only when `dbt build` ran every
    model and every data test of the project and none failed. Until then readers see the columns of
    the publication before, as well as its rows.
-#}
{% macro end_build(results) -%}
    {% if execute and flags.WHICH in ('build', 'run') %}
        {% do keep_test_results(results) %}
        {% set appended = rows_appended(results) %}
        {% set verdict = build_verdict(results) or leaving_verdict(appended) %}
        {% if verdict %}
            {% do log('', info=true) %}
            {% do log('Nothing was published: ' ~ verdict ~ ' Readers see what they saw before.', info=true) %}
{{ close_build() }}
        {% else %}
            {% do log('', info=true) %}
            {% do log('Published: ' ~ appended_text(appended) ~ '.', info=true) %}
            {% set definitions = definitions() %}
            {% set tests = results | map(attribute='node.resource_type') | select('in', ['test', 'unit_test']) | list %}
{{ publish_build(
    env_var('STREAMFLOW_CODE_VERSION', '') or 'definitions ' ~ local_md5(tojson(definitions)),
    appended, definitions, tests | length
) }}
        {% endif %}
    {% endif %}
{%- endmacro %}


{#- A model of this project; `ref` in a hook would ask for a hint in each place that calls it. -#}
{% macro relation_of(name) -%}
    {{ graph.nodes['model.' ~ project_name ~ '.' ~ name].relation_name if graph_is_known() else name }}
{%- endmacro %}


{#- Every test's result into ledger.tests, of builds that are not published too. -#}
{% macro keep_test_results(results) %}
    {% set rows = [] %}
    {% for result in results if result.node.resource_type in ('test', 'unit_test') %}
        {% do rows.append('(' ~ [
            literal(invocation_id),
            literal(result.node.unique_id),
            literal(result.node.name),
            literal(result.node.resource_type | string),
            literal(result.status | string),
            (result.failures or 0) | int,
            literal(result.message or ''),
            result.execution_time | float,
        ] | join(', ') ~ ')') %}
    {% endfor %}
    {% if rows %}
        {#- No row where this build was refused at its start. -#}
        {% do run_query(
            'insert into ledger.tests select told.* from (values ' ~ (rows | join(', '))
            ~ ') as told (invocation_id, test_id, name, kind, status, failures, message, seconds)'
            ~ ' inner join ledger.builds on told.invocation_id = builds.invocation_id'
        ) %}
    {% endif %}
{% endmacro %}


{#-
    Why this build would take too many of an entity offline to be published; empty if it would not.
    Those online are the ones of a view's newest as_of, and every view has those of the spine. Who is
    seen in events leaves by not being seen, which is ordinary: told, and no reason
    (docs/decisions/0102).
-#}
{% macro leaving_verdict(appended) %}
    {% set shown = contracts().published %}
    {% for name, entity in entities().items() %}
        {% set views = [] %}
        {% for view in feature_models() if entity_of(view) == name and view.config.meta.get('feast') %}
            {% do views.append(view.name) if appended.get(view.name) and view.name in shown %}
        {% endfor %}
        {% if views %}
            {% set verdict = leaving_verdict_of(name, entity, views[0]) %}
            {% if verdict %}
                {{ return(verdict) }}
            {% endif %}
        {% endif %}
    {% endfor %}
    {{ return('') }}
{% endmacro %}


{% macro leaving_verdict_of(name, entity, view) %}
    {% set keys = entity.join_keys | join(', ') %}
    {% set newest = namespace(queries=[]) %}
    {% for relation, as_of in [
        ('published.' ~ view, 'select max(as_of) from published.' ~ view ~ ' where not is_retracted'),
        ('features.' ~ view, 'select max(as_of) from ' ~ relation_of('int_calendar')),
    ] %}
        {% do newest.queries.append('select ' ~ keys ~ ' from (' ~ first_of_each(
            entity.join_keys.keys() | list, (entity.join_keys.keys() | list) + ['is_retracted'], 'known_at',
            'select * from ' ~ relation ~ ' where as_of = (' ~ as_of ~ ')'
        ) ~ ') as newest where not is_retracted') %}
    {% endfor %}
    {% set row = run_query(
        'with before as (' ~ newest.queries[0] ~ '), after as (' ~ newest.queries[1] ~ ') select (select count(*) from before), count(*)'
        ~ ' from (select * from before except select * from after) as leaving'
    ).rows[0] %}
    {% set online, leaving = row[0] | int, row[1] | int %}
    {% set named = leaving ~ ' of ' ~ online ~ ' ' ~ (name | replace('_', '-')) ~ 's' %}
    {% if leaving %}
        {% do log(named ~ ' leave: the newest as_of does not have them.', info=true) %}
    {% endif %}
    {% if 'state' in entity.made_from and leaving > var('leaving_few')
        and leaving > var('leaving_share') * online and leaving > var('allow_leaving') %}
        {{ return(
            named ~ ' would leave the online store, because the newest drop does not list them. If its '
            ~ entity.made_from.state ~ '.csv was cut off, load it whole, then: dbt build. If they did leave: '
            ~ "dbt build --vars 'allow_leaving: " ~ leaving ~ "' (make build ALLOW_LEAVING=" ~ leaving ~ ').'
        ) }}
    {% endif %}
    {{ return('') }}
{% endmacro %}


{#- Why this build may not be published, as sentences that end in what to do; empty if it may. -#}
{% macro build_verdict(results) %}
    {% set failed = [] %}
    {% for result in results if result.status in ('fail', 'error', 'runtime error', 'partial success') %}
        {% do failed.append(result) %}
    {% endfor %}
    {% if failed %}
        {% set first = failed[0] %}
        {% set text = (failed | length) ~ ' of ' ~ (results | length) ~ ' steps failed, first '
            ~ first.node.resource_type ~ ' ' ~ first.node.name ~ ' (' ~ (first.message or first.status) | trim ~ ').' %}
        {% if first.node.resource_type == 'test' and first.node.compiled_path %}
            {% set text = text ~ ' Its rows: dbt show --select ' ~ first.node.name
                ~ ', or the query in ' ~ first.node.compiled_path ~ '.' %}
        {% endif %}
        {{ return(text ~ ' Correct the drop or the model, then: dbt build.') }}
    {% endif %}
    {#- The leak check's scratch database: its drawn values need not be plausible. -#}
    {% set untested = flags.WHICH == 'run' and '_leak_check_' in (target.dbname or '') %}
    {% if flags.WHICH == 'run' and not untested %}
        {{ return('dbt run does not test. To test and publish: dbt build.') }}
    {% endif %}
    {% if current_build().load_to == 0 %}
        {{ return('no drop is loaded. Load one, then build: python -m data load <folder>; dbt build.') }}
    {% endif %}
    {% if not run_query('select 1 from ' ~ relation_of('int_calendar') ~ ' limit 1').rows %}
        {% set drops = run_query(
            'select cast(' ~ utc_date('min(as_of)') ~ ' as ' ~ type_text() ~ '), cast(' ~ utc_date('max(as_of)')
            ~ ' as ' ~ type_text() ~ ') from raw.loads'
        ).rows[0] %}
        {{ return(
            'no ' ~ current_build().cadence ~ ' begins between the first drop, ' ~ drops[0] ~ ', and the newest, '
            ~ drops[1] ~ ', and no event of the first drop lies before it. Load events or older drops, or take the '
            ~ "drops' dates: dbt build --vars 'cadence: drops' (make build CADENCE=drops)."
        ) }}
    {% endif %}
    {% set ran = results | map(attribute='node.unique_id') | list %}
    {% set left_out = [] %}
    {% for id, node in graph.nodes.items() if id not in ran and node.resource_type in (['model'] if untested else ['model', 'test']) %}
        {% do left_out.append(node.name) %}
    {% endfor %}
    {% for result in results if result.status == 'skipped' %}
        {% do left_out.append(result.node.name) %}
    {% endfor %}
    {% if left_out %}
        {{ return(
            (left_out | length) ~ ' models and tests were left out, ' ~ left_out[0]
            ~ ' for one. To build, test and publish everything: dbt build.'
        ) }}
    {% endif %}
    {{ return('') }}
{% endmacro %}


{#- {table: rows appended} from dbt's own results. -#}
{% macro rows_appended(results) %}
    {% set appended = {} %}
    {% for result in results if result.node.resource_type == 'model' and result.node.schema == 'features' %}
        {% do appended.update({result.node.name: appended_by(result)}) %}
    {% endfor %}
    {{ return(appended) }}
{% endmacro %}


{% macro appended_text(appended) %}
    {% set parts = [] %}
    {% for table, rows in appended.items() if rows %}
        {% do parts.append(table ~ ' +' ~ rows) %}
    {% endfor %}
    {{ return(parts | join(', ') or 'no row changed') }}
{% endmacro %}
