{#-
    on-run-start: registers this invocation in ledger.builds.

    One build at a time. A build that was killed leaves a row `running` and no session behind: it
    is taken over, and what it appended is removed, columns and tables included. Every append holds
    a lock on its build's row (require_running_build), so a build wrongly taken for dead fails at
    its next append instead of mixing its rows into this one's.
-#}
{% macro start_build() -%}
    {% if execute and flags.WHICH in ('build', 'run', 'test') %}
        {% do start_engine() %}
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
{{ register_build(contracts, cadence, since, reasons | length > 0) }}
    {% endif %}
{%- endmacro %}


{% macro last_publication() -%}
    coalesce((select max(known_at) from ledger.publications), '-infinity')
{%- endmacro %}


{#-
    {'tables': [...], 'columns': {table: [...]}} that builds made which were not published. They hold
    nothing that anybody has seen, in types that may have been given up since.
-#}
{% macro never_published(contracts) %}
    {% set found = {'tables': [], 'columns': {}} %}
    {% for table, columns in contracts.stored.items() %}
        {% set unseen = columns.keys() | reject('in', contracts.published.get(table, {})) | list %}
        {% if unseen %}
            {% set ever = ever_published(table) %}
            {% if not ever and table not in contracts.published %}
                {% do found.tables.append(table) %}
            {% else %}
                {% do found.columns.update({table: unseen | reject('in', ever) | list}) %}
            {% endif %}
        {% endif %}
    {% endfor %}
    {{ return(found) }}
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


{#- A column of the newest row of ledger.publications (before an instant), as text; none if there is none. -#}
{% macro published(column, before=none) %}
    {% set found = run_query(
        'select cast(' ~ column ~ ' as ' ~ type_text() ~ ') from ledger.publications'
        ~ (' where known_at < ' ~ instant_literal(before) if before else '') ~ ' order by known_at desc limit 1'
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
