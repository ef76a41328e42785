{#-
    on-run-start: registers this invocation in ledger.builds.

    One build at a time. A build that was killed leaves a row `running` and no session behind: it
    is taken over, and what it appended is removed, columns and tables included. Every append holds
    a lock on its build's row (require_running_build), so a build wrongly taken for dead fails at
    its next append instead of mixing its rows into this one's.
-#}
{% macro start_build() -%}
    {% if execute and flags.WHICH in ('build', 'run', 'test') %}
        {% do require_utc() %}
    {% endif %}
    {% if execute and flags.WHICH in ('build', 'run') %}
        {% do take_over() %}
        {% set contracts = contracts() %}
        {% do drop_unpublished(contracts) %}
        {% set problems = definition_problems(contracts) %}
        {% if problems %}
            {% do exceptions.raise_compiler_error(
                'the definitions cannot be built; nothing was changed.\n  ' ~ (problems | join('.\n  '))
                ~ '.\nCorrect that, then: dbt build'
            ) %}
        {% endif %}
        {% set cadence = cadence() %}
        {% set since = calendar_start(cadence) %}
        {% set reasons = recompute_reasons(contracts, cadence, since) %}
        {% for reason in reasons %}
            {% do log('Computing every pair: ' ~ reason ~ '.', info=true) %}
        {% endfor %}
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
    {{ 'true' if reasons else 'false' }},
    '{{ cadence }}',
    {{ literal(since) if since else 'null' }};
commit;
    {% endif %}
{%- endmacro %}


{% macro last_publication() -%}
    coalesce((select max(known_at) from ledger.publications), '-infinity')
{%- endmacro %}


{#-
    An interval of days over a change to summer time is an hour longer or shorter in any other time
    zone. profiles.yml asks for UTC; PGTZ in the environment goes before it.
-#}
{% macro require_utc() %}
    {% set zone = run_query(
        "select current_setting('TimeZone') where extract(timezone from timestamptz '2024-01-01') <> 0"
        ~ " or extract(timezone from timestamptz '2024-07-01') <> 0"
    ) %}
    {% if zone.rows %}
        {% do exceptions.raise_compiler_error(
            "this session's TimeZone is " ~ zone.rows[0][0] ~ ', and windows are counted in UTC. Nothing was '
            ~ 'changed. ' ~ (
                'The environment says so: unset PGTZ, then run this again'
                if env_var('PGTZ', '') else
                'Ask for it as dbt_project/profiles.yml does, then run this again'
            )
        ) %}
    {% endif %}
{% endmacro %}


{#- Takes the builders' lock, to the end of the transaction; ends what a killed build left. -#}
{% macro take_over() %}
    {% do run_query("
do $$
declare
    other record;
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
end $$") %}
{% endmacro %}


{#-
    {'tables': [...], 'columns': {table: [...]}} that builds made which were not published. They hold
    nothing that anybody has seen, in types that may have been given up since.
-#}
{% macro never_published(contracts) %}
    {% set found = {'tables': [], 'columns': {}} %}
    {% for table, columns in contracts.stored.items() %}
        {% set unseen = columns.keys() | reject('in', contracts.published.get(table, {})) | list %}
        {% if unseen %}
            {% set ever = run_query(
                "select distinct json_object_keys(node -> 'columns') from ledger.publications"
                ~ " cross join json_each(manifest -> 'nodes') as nodes (id, node)"
                ~ " where node ->> 'resource_type' = 'model' and node ->> 'name' = '" ~ table ~ "'"
            ).columns[0].values() | list %}
            {% if not ever and table not in contracts.published %}
                {% do found.tables.append(table) %}
            {% else %}
                {% do found.columns.update({table: unseen | reject('in', ever) | list}) %}
            {% endif %}
        {% endif %}
    {% endfor %}
    {{ return(found) }}
{% endmacro %}


{#- Drops those, in the database and in `contracts`. -#}
{% macro drop_unpublished(contracts) %}
    {% set leavings = never_published(contracts) %}
    {% for table in leavings.tables %}
        {#- By the adapter, which then knows that the model has to make the table. -#}
        {% set relation = adapter.get_relation(target.database, 'features', table) %}
        {% if relation %}
            {% do adapter.drop_relation(relation) %}
        {% endif %}
    {% endfor %}
    {% for table, columns in leavings.columns.items() %}
        {% for column in columns %}
            {% do run_query('alter table features.' ~ table ~ ' drop column ' ~ adapter.quote(column)) %}
        {% endfor %}
    {% endfor %}
    {% do forget_unpublished(contracts, leavings) %}
{% endmacro %}


{% macro forget_unpublished(contracts, leavings) %}
    {% for table in leavings.tables %}
        {% do contracts.stored.pop(table) %}
    {% endfor %}
    {% for table, columns in leavings.columns.items() %}
        {% for column in columns %}
            {% do contracts.stored[table].pop(column) %}
        {% endfor %}
    {% endfor %}
{% endmacro %}


{#- What the calendar is: as asked for (`--vars 'cadence: day'`), else as published, else drops. -#}
{% macro cadence() %}
    {% set known = ['drops', 'month', 'week', 'day', 'hour'] %}
    {% set asked = var('cadence', none) %}
    {% if asked and asked not in known %}
        {% do exceptions.raise_compiler_error(
            "cadence is '" ~ asked ~ "'; it can be drops, month, week, day or hour: "
            ~ "dbt build --vars 'cadence: month'"
        ) %}
    {% endif %}
    {{ return(asked or published('cadence') or 'drops') }}
{% endmacro %}


{#- A column of the newest row of ledger.publications, as text; none before the first. -#}
{% macro published(column) %}
    {% set found = run_query(
        'select ' ~ column ~ '::text from ledger.publications order by known_at desc limit 1'
    ) %}
    {{ return(found.rows[0][0] if found.rows else none) }}
{% endmacro %}


{#- Why this build must look at every pair, and not only at those that new rows can have changed. -#}
{% macro recompute_reasons(contracts, cadence, since) %}
    {% set reasons = [] %}
    {% if var('recompute') %}
        {% do reasons.append('recompute was asked for') %}
    {% endif %}
    {% set before = published('cadence') %}
    {% if not before %}
        {% do reasons.append('nothing is published yet') %}
    {% else %}
        {% if before != cadence %}
            {% do reasons.append('the cadence was ' ~ before ~ ' and is ' ~ cadence ~ ' now') %}
        {% elif fewer_as_ofs(since) %}
            {% do reasons.append('the calendar no longer holds all that was published') %}
        {% endif %}
        {% set as_published = fromjson(published('definitions')) %}
        {% for table, parts in definitions().items() %}
            {% if table not in contracts.published %}
                {% do reasons.append(table ~ ' is new') %}
            {% else %}
                {% for column in contracts.defined[table] if column not in contracts.published[table] %}
                    {% do reasons.append(table ~ '.' ~ column ~ ' is new') %}
                {% endfor %}
                {% set changed = changed_parts(as_published.get(table), parts) %}
                {% if changed %}
                    {% do reasons.append(
                        table ~ ' changed since it was published (' ~ some_of(changed) ~ ')'
                    ) %}
                {% endif %}
            {% endif %}
        {% endfor %}
    {% endif %}
    {{ return(reasons) }}
{% endmacro %}
