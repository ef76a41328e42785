{#-
    `dbt run-operation plan` (`make plan`): what `dbt build` would do now. Writes nothing.

    Of definitions: which features are new, gone or retyped, and which tables are made from something
    that changed in meaning. Of data: the loads that no publication has seen, and how many
    pairs of an entity and an as_of would be computed, and why.
-#}
{% macro plan() %}
    {% if execute %}
        {% do require_utc() %}
        {% set contracts = contracts() %}
        {% do forget_unpublished(contracts, never_published(contracts)) %}
        {% set cadence = cadence() %}
        {% set since = calendar_start(cadence) %}
        {% set reasons = recompute_reasons(contracts, cadence, since) %}
        {% set before = run_query(
            'select coalesce((select load_to from ledger.publications order by known_at desc limit 1), 0),'
            ~ ' coalesce((select max(load_id) from raw.loads), 0)'
        ).rows[0] %}
        {% do graph.update({'streamflow_build': {
            'invocation_id': invocation_id,
            'known_at': 'epoch',
            'load_from': before[0] | int,
            'load_to': before[1] | int,
            'recompute': reasons | length > 0,
            'cadence': cadence,
            'since': since,
            'published_since': published('since'),
        }}) %}
        {% set lines = [] %}
        {% do plan_definitions(contracts, lines) %}
        {% do plan_loads(before[0] | int, lines) %}
        {% do plan_pairs(reasons, lines) %}
        {% for problem in definition_problems(contracts) %}
            {% do lines.append('refused   ' ~ problem) %}
        {% endfor %}
        {% do log('Plan (nothing was written):', info=true) %}
        {% for line in lines %}
            {% do log('  ' ~ line, info=true) %}
        {% endfor %}
    {% endif %}
{% endmacro %}


{% macro plan_definitions(contracts, lines) %}
    {% set as_published = fromjson(published('definitions') or '{}') %}
    {% set definitions = definitions() %}
    {% for table in (contracts.published.keys() | list + contracts.defined.keys() | list) | unique | sort
        if table in contracts.defined or not table.endswith('_latest') %}
        {% set was = contracts.published.get(table, {}) %}
        {% set is = contracts.defined.get(table, {}) %}
        {% for column in is if column not in was %}
            {% do lines.append('new       ' ~ table ~ '.' ~ column ~ ' ' ~ is[column]) %}
        {% endfor %}
        {% for column in was if column not in is %}
            {% do lines.append('gone      ' ~ table ~ '.' ~ column ~ '; its history stays') %}
        {% endfor %}
        {% for column in is if column in was and is[column] != was[column] %}
            {% do lines.append('retyped   ' ~ table ~ '.' ~ column ~ ' from ' ~ was[column] ~ ' to ' ~ is[column]) %}
        {% endfor %}
        {% if was and is %}
            {% set changed = changed_parts(as_published.get(table), definitions[table]) %}
            {% if changed %}
                {% do lines.append('changed   ' ~ table ~ ': ' ~ some_of(changed)) %}
            {% endif %}
        {% endif %}
    {% endfor %}
    {% if not lines %}
        {% do lines.append('definitions as published') %}
    {% endif %}
{% endmacro %}


{% macro plan_loads(load_from, lines) %}
    {% set loads = run_query(
        "select load_id, to_char(as_of at time zone 'UTC', 'YYYY-MM-DD'),"
        ~ " string_agg(table_name || ' +' || rows_added || ' -' || rows_retracted, ', ' order by table_name)"
        ~ ' from raw.loads where load_id > ' ~ load_from ~ ' group by 1, 2 order by 1'
    ).rows %}
    {% for load in loads %}
        {% do lines.append('load      ' ~ load[0] ~ ' of ' ~ load[1] ~ ': ' ~ load[2]) %}
    {% endfor %}
    {% if not loads %}
        {% do lines.append('no load that is not published') %}
    {% endif %}
{% endmacro %}


{#-
    The models up to changes_<entity> as one query, since the relations that stand in the database
    are those of the last build.
-#}
{% macro plan_pairs(reasons, lines) %}
    {% for reason in reasons %}
        {% do lines.append('all pairs because ' ~ reason) %}
    {% endfor %}
    {% for name in entities() | sort %}
        {% set models = [] %}
        {% do collect_models('model.' ~ project_name ~ '.changes_' ~ name, models) %}
        {% set parts = [] %}
        {% for node in models %}
            {% set code = namespace(text=render(node.raw_code)) %}
            {% for other in models %}
                {% set code.text = code.text | replace(other.relation_name, other.name) %}
            {% endfor %}
            {% do parts.append(node.name ~ ' as (' ~ code.text ~ ')') %}
        {% endfor %}
        {% set views = [] %}
        {% set counts = ['(select count(*) from spine_' ~ name ~ ')'] %}
        {% for view in feature_models() if entity_of(view) == name and 'events' in view.config.meta.get('made_from', {}) %}
            {% do views.append(view.name) %}
            {% do counts.append('count(*) filter (where ' ~ computes(view.name) ~ ')') %}
        {% endfor %}
        {% set row = run_query(
            'with ' ~ (parts | join(', ')) ~ ' select ' ~ (counts | join(', ')) ~ ' from changes_' ~ name ~ ' as changes'
        ).rows[0] %}
        {% for view in views %}
            {% do lines.append(
                'compute   ' ~ view ~ ': ' ~ row[loop.index] ~ ' of ' ~ row[0] ~ ' (' ~ (entity_keys(name) | join(', '))
                ~ ', as_of) pairs'
            ) %}
        {% endfor %}
    {% endfor %}
{% endmacro %}


{#- A model and those that it is made from, each after what it needs. -#}
{% macro collect_models(unique_id, models) %}
    {% set node = graph.nodes.get(unique_id) %}
    {% if node and node not in models %}
        {% for needed in node.depends_on.nodes %}
            {% do collect_models(needed, models) %}
        {% endfor %}
        {% do models.append(node) if node not in models %}
    {% endif %}
{% endmacro %}
