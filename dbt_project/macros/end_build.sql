{#-
    on-run-end: publishes the build, or says why not and what to do.

    Published means: one row in ledger.publications. It is written only when `dbt build` ran every
    model and every data test of the project and none failed.
-#}
{% macro end_build(results) -%}
    {% if execute and flags.WHICH in ('build', 'run') %}
        {% set verdict = build_verdict(results) %}
        {% if verdict %}
            {% do log('', info=true) %}
            {% do log('Nothing was published: ' ~ verdict ~ ' Readers see what they saw before.', info=true) %}
update ledger.builds set status = 'unpublished', ended_at = clock_timestamp()
where invocation_id = '{{ invocation_id }}' and status = 'running';
commit;
        {% else %}
            {% set appended = rows_appended(results) %}
            {% do log('', info=true) %}
            {% do log('Published: ' ~ appended_text(appended) ~ '.', info=true) %}
            {% set definitions = {} %}
            {% for node in feature_models() %}
                {% do definitions.update({node.name: node.checksum.checksum}) %}
            {% endfor %}
            {% set tests = results | map(attribute='node.resource_type') | select('in', ['test', 'unit_test']) | list %}
do $$
declare
    build ledger.builds;
begin
    update ledger.builds set status = 'published', ended_at = clock_timestamp()
    where invocation_id = '{{ invocation_id }}' and status = 'running'
    returning * into build;
    if not found then
        raise exception 'this build was taken over by a later one; nothing of it is published';
    end if;
    insert into ledger.publications (
        known_at, invocation_id, code_version, load_to, cadence, rows_appended, definitions, tests_run
    ) values (
        build.known_at,
        build.invocation_id,
        '{{ env_var("STREAMFLOW_CODE_VERSION", "") | replace("'", "") or "definitions " ~ local_md5(tojson(definitions)) }}',
        build.load_to,
        '{{ var("cadence") }}',
        '{{ tojson(appended) }}',
        '{{ tojson(definitions) }}',
        {{ tests | length }}
    );
end $$;
commit;
        {% endif %}
    {% endif %}
{%- endmacro %}


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
    {% if flags.WHICH == 'run' %}
        {{ return('dbt run does not test. To test and publish: dbt build.') }}
    {% endif %}
    {% if current_build().load_to == 0 %}
        {{ return('no drop is loaded. Load one, then build: python -m data load <folder>; dbt build.') }}
    {% endif %}
    {% set ran = results | map(attribute='node.unique_id') | list %}
    {% set left_out = [] %}
    {% for id, node in graph.nodes.items() if node.resource_type in ('model', 'test') and id not in ran %}
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
        {% do appended.update({result.node.name: (result.adapter_response or {}).get('rows_affected', 0) | int}) %}
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
