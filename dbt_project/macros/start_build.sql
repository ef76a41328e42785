{#-
    on-run-start: registers this invocation in ledger.builds.

    One build at a time. A build that was killed leaves a row `running` and no session behind: it
    is taken over, and what it appended is removed. Every append holds a lock on its build's row
    (require_running_build), so a build wrongly taken for dead fails at its next append instead of
    mixing its rows into this one's.
-#}
{% macro start_build() -%}
    {% if execute and flags.WHICH in ('build', 'run') %}
        {% set reasons = recompute_reasons() %}
        {% for reason in reasons %}
            {% do log('Computing every pair: ' ~ reason ~ '.', info=true) %}
        {% endfor %}
        {% do warn_of_changed_definitions(reasons) %}
do $$
declare
    other record;
    table_name text;
    last_published timestamptz;
begin
    perform pg_advisory_xact_lock(hashtext('streamflow build'));
    for other in select * from ledger.builds where status = 'running' loop
        for attempt in 1..30 loop -- a live build has a session open nearly all the time
            perform pg_stat_clear_snapshot();
            if exists (
                select from pg_stat_activity
                where datname = current_database() and application_name = 'dbt'
                    and pid <> pg_backend_pid() and state is not null
            ) then
                raise exception using message = format(
                    'the dbt build %s, started %s, is still running, or was killed and its last '
                    'query has not ended. Nothing was changed. Run this again when it is done.',
                    other.invocation_id, other.started_at);
            end if;
            perform pg_sleep(0.1);
        end loop;
        update ledger.builds set status = 'unpublished', ended_at = clock_timestamp()
        where known_at = other.known_at;
    end loop;

    select max(known_at) into last_published from ledger.publications;
    for table_name in select unnest(array[{{ existing_tables() }}]::text[]) loop
        execute format('delete from %s where known_at > $1', table_name)
        using coalesce(last_published, '-infinity');
    end loop;

    insert into ledger.builds (known_at, invocation_id, status, load_from, load_to, recompute)
    select
        greatest(
            clock_timestamp(),
            (select max(known_at) + interval '1 microsecond' from ledger.builds)
        ),
        '{{ invocation_id }}',
        'running',
        coalesce(
            (select load_to from ledger.publications order by known_at desc limit 1), 0
        ),
        coalesce((select max(load_id) from raw.loads), 0),
        {{ 'true' if reasons else 'false' }};
end $$;
commit;
    {% endif %}
{%- endmacro %}


{#- Why this build must look at every pair, and not only at those that new rows can have changed. -#}
{% macro recompute_reasons() %}
    {% set reasons = [] %}
    {% if var('cadence') not in ('drops', 'month', 'week', 'day') %}
        {% do exceptions.raise_compiler_error(
            "cadence is '" ~ var('cadence') ~ "'; it can be drops, month, week or day: "
            ~ "dbt build --vars 'cadence: month'"
        ) %}
    {% endif %}
    {% if var('recompute') %}
        {% do reasons.append('recompute was asked for') %}
    {% endif %}
    {% set published = run_query(
        'select cadence from ledger.publications order by known_at desc limit 1'
    ) %}
    {% if not published.rows %}
        {% do reasons.append('nothing is published yet') %}
    {% else %}
        {% if published.rows[0][0] != var('cadence') %}
            {% do reasons.append(
                'the cadence was ' ~ published.rows[0][0] ~ ' and is ' ~ var('cadence') ~ ' now'
            ) %}
        {% endif %}
        {% for node in feature_models() %}
            {% set relation = existing_relation(node) %}
            {% if not relation %}
                {% do reasons.append(node.name ~ ' is new') %}
            {% else %}
                {% set there = adapter.get_columns_in_relation(relation) | map(attribute='name') | list %}
                {% for column in node.columns if column not in there %}
                    {% do reasons.append(node.name ~ '.' ~ column ~ ' is new') %}
                {% endfor %}
            {% endif %}
        {% endfor %}
    {% endif %}
    {{ return(reasons) }}
{% endmacro %}


{% macro warn_of_changed_definitions(reasons) %}
    {% set published = run_query(
        'select definitions::text from ledger.publications order by known_at desc limit 1'
    ) %}
    {% if published.rows and not reasons %}
        {% set definitions = fromjson(published.rows[0][0]) %}
        {% for node in feature_models() if definitions.get(node.name) != node.checksum.checksum %}
            {% do exceptions.warn(
                node.name ~ ' changed since it was published. Published rows keep the values of '
                ~ "the old definition; to compute them again: dbt build --vars 'recompute: true'"
            ) %}
        {% endfor %}
    {% endif %}
{% endmacro %}


{#- The versioned tables, as nodes of dbt's graph. -#}
{% macro feature_models() %}
    {{ return(
        graph.nodes.values()
        | selectattr('resource_type', 'equalto', 'model')
        | selectattr('schema', 'equalto', 'features')
        | sort(attribute='name') | list
    ) }}
{% endmacro %}


{% macro existing_relation(node) %}
    {{ return(adapter.get_relation(node.database, node.schema, node.alias)) }}
{% endmacro %}


{#- The versioned tables that exist, as a list of SQL string literals. -#}
{% macro existing_tables() %}
    {%- set names = [] -%}
    {%- for node in feature_models() if existing_relation(node) -%}
        {%- do names.append("'" ~ existing_relation(node).render() ~ "'") -%}
    {%- endfor -%}
    {{ return(names | join(', ')) }}
{% endmacro %}
