{#- What a feature table is, and whether that changed since the last publication. -#}


{#- The versioned tables, as nodes of dbt's graph. -#}
{% macro feature_models() %}
    {{ return(
        graph.nodes.values()
        | selectattr('resource_type', 'equalto', 'model')
        | selectattr('schema', 'equalto', 'features')
        | sort(attribute='name') | list
    ) }}
{% endmacro %}


{#- Columns of every versioned model that are no features: who, when, known when, and whether taken back. -#}
{% macro key_columns() %}
    {{ return({
        'user_id': 'text',
        'as_of': 'timestamp with time zone',
        'known_at': 'timestamp with time zone',
        'is_retracted': 'boolean',
    }) }}
{% endmacro %}


{#- The types of features: those with an exact equivalent in Feast (feature_repo/streamflow_feast/dbt/manifest.py). -#}
{% macro feature_types() %}
    {{ return(['bigint', 'integer', 'double precision', 'real', 'boolean', 'text', 'bytea']) }}
{% endmacro %}


{#- Changes of a type that no value can be lost by. -#}
{% macro wider_types() %}
    {{ return({
        'integer': ['bigint', 'double precision'],
        'real': ['double precision'],
    }) }}
{% endmacro %}


{#-
    {table: {column: type}} by Postgres's own names of the types:

    defined    as the models' YAML says
    stored     as the tables are: every column that was ever published
    published  as the published views are: the columns of the last publication
-#}
{% macro contracts() %}
    {% set found = {'defined': {}, 'stored': {}, 'published': {}} %}
    {% set aliases = {} %}
    {% for node in feature_models() %}
        {% for column in node.columns.values() if column.data_type %}
            {% do aliases.update({column.data_type: column.data_type}) %}
        {% endfor %}
    {% endfor %}
    {% for row in run_query(
        "select type, case to_regtype(type)::text when 'character varying' then 'text'"
        ~ " else coalesce(to_regtype(type)::text, type) end"
        ~ " from jsonb_array_elements_text('" ~ (tojson(aliases.keys() | list) | replace("'", "''")) ~ "') as type"
    ) %}
        {% do aliases.update({row[0]: row[1]}) %}
    {% endfor %}
    {% for node in feature_models() %}
        {% set columns = {} %}
        {% for column in node.columns.values() %}
            {% do columns.update({column.name: aliases.get(column.data_type, '')}) %}
        {% endfor %}
        {% do found.defined.update({node.name: columns}) %}
    {% endfor %}
    {% for row in run_query(
        "select nspname, relname, attname, format_type(atttypid, null)"
        ~ " from pg_attribute join pg_class on pg_class.oid = attrelid"
        ~ " join pg_namespace on pg_namespace.oid = relnamespace"
        ~ " where nspname in ('features', 'published') and relkind in ('r', 'p', 'v')"
        ~ " and attnum > 0 and not attisdropped order by relname, attnum"
    ) %}
        {% set tables = found[{'features': 'stored', 'published': 'published'}[row[0]]] %}
        {% do tables.setdefault(row[1], {}).update({row[2]: 'text' if row[3] == 'character varying' else row[3]}) %}
    {% endfor %}
    {{ return(found) }}
{% endmacro %}


{#-
    What is wrong with the definitions, one sentence each; checked before the first row is appended,
    because afterwards the table has the type.
-#}
{% macro definition_problems(contracts) %}
    {% set problems = [] %}
    {% for node in feature_models() %}
        {% set defined = contracts.defined[node.name] %}
        {% set stored = contracts.stored.get(node.name, {}) %}
        {% set where = node.original_file_path | replace('.sql', '.yml') %}
        {% set entity = ((node.config.meta or {}).get('feast') or {}).get('entity', 'user') %}
        {% if entity != 'user' %}
            {% do problems.append(
                node.name ~ ' (' ~ where ~ "): meta.feast.entity is '" ~ entity ~ "'; there is one entity, 'user'"
            ) %}
        {% endif %}
        {% for column, type in key_columns().items() if defined.get(column) != type %}
            {% do problems.append(
                node.name ~ '.' ~ column ~ ' (' ~ where ~ ') is ' ~ (defined.get(column) or 'missing')
                ~ ', must be ' ~ type
            ) %}
        {% endfor %}
        {% for column, type in defined.items() if column not in key_columns() %}
            {% if type not in feature_types() %}
                {% do problems.append(
                    node.name ~ '.' ~ column ~ ' (' ~ where ~ ') is ' ~ (type or 'of no data_type')
                    ~ ', which has no exact equivalent in Feast; cast it at the end of the model to one of '
                    ~ (feature_types() | join(', ')) ~ ', and say so in its YAML'
                ) %}
            {% elif column in stored and stored[column] != type
                and type not in wider_types().get(stored[column], []) %}
                {% do problems.append(
                    node.name ~ '.' ~ column ~ ' (' ~ where ~ ') was published as ' ~ stored[column]
                    ~ ' and is ' ~ type ~ ' now, in which published values would not be what they were. '
                    ~ 'Give the feature a new name, such as ' ~ column ~ '_v2, and take ' ~ column
                    ~ ' out (its history stays), or keep ' ~ stored[column]
                ) %}
            {% endif %}
        {% endfor %}
    {% endfor %}
    {{ return(problems) }}
{% endmacro %}


{#- {table: {column: type}} of columns that are stored in a narrower type than they are defined. -#}
{% macro widened_columns(contracts) %}
    {% set widened = {} %}
    {% for table, columns in contracts.defined.items() %}
        {% set stored = contracts.stored.get(table, {}) %}
        {% for column, type in columns.items() if column in stored and stored[column] != type %}
            {% do widened.setdefault(table, {}).update({column: type}) %}
        {% endfor %}
    {% endfor %}
    {{ return(widened) }}
{% endmacro %}


{#-
    {table: {model or macro: checksum}}: everything that a versioned table is made from, by meaning.
    A comment or the layout is no meaning; a variable's value is.
-#}
{% macro definitions() %}
    {% set checksums = {} %}
    {% set found = {} %}
    {% for node in feature_models() %}
        {% set parts = [] %}
        {% do collect_parts(node.unique_id, parts, checksums) %}
        {% set table = {} %}
        {% for part in parts | sort %}
            {% do table.update({part: checksums[part].checksum}) %}
        {% endfor %}
        {% do found.update({node.name: table}) %}
    {% endfor %}
    {{ return(found) }}
{% endmacro %}


{#- Adds to `parts` the names of a node, or macro, and of all that it is made from. -#}
{% macro collect_parts(name, parts, checksums) %}
    {% set node = graph.nodes.get(name) %}
    {% set part = 'macro ' ~ name if not node else node.resource_type ~ ' ' ~ node.name %}
    {% if part not in parts %}
        {% do parts.append(part) %}
        {% if part not in checksums %}
            {% set code = (node.raw_code or node.checksum.checksum) if node else context[name].macro.macro_sql %}
            {% set text = code_tokens(code) | join(' ') %}
            {% set needs = node.depends_on.nodes | select('in', graph.nodes) | list if node else [] %}
            {% for called in modules.re.findall('([A-Za-z_]\\w*) \\(', text) | unique %}
                {% if context.get(called) and context[called].macro is defined
                    and context[called].macro.package_name == project_name and called != name %}
                    {% do needs.append(called) %}
                {% endif %}
            {% endfor %}
            {% for variable in modules.re.findall('\\bvar \\( [\'"](\\w+)', text) | unique %}
                {% if variable not in ('cadence', 'recompute') %}
                    {% set text = text ~ ' ' ~ variable ~ ' = ' ~ var(variable, none) %}
                {% endif %}
            {% endfor %}
            {% do checksums.update({part: {'checksum': local_md5(text)[:12], 'needs': needs}}) %}
        {% endif %}
        {% for needed in checksums[part].needs %}
            {% do collect_parts(needed, parts, checksums) %}
        {% endfor %}
    {% endif %}
{% endmacro %}


{#- The words and signs of SQL with Jinja in it, without comments and layout. -#}
{% macro code_tokens(code) %}
    {% set code = modules.re.sub('([{][{%])-|-([%}][}])', '\\1\\2', code) %}
    {{ return(
        modules.re.findall(
            '(?s)[{]#.*?#[}]|--[^\\n]*|/[*].*?[*]/|(\'(?:[^\']|\'\')*\'|"[^"]*"|\\w+|[^\\s\\w])', code
        ) | select | list
    ) }}
{% endmacro %}


{#- The parts of a table's definition that are not as they were published; none if all are. -#}
{% macro changed_parts(published, defined) %}
    {% set changed = [] %}
    {% if published is not mapping %}
        {% do changed.append('as published by an earlier release') %}
    {% else %}
        {% for part in (published.keys() | list + defined.keys() | list) | unique | sort
            if published.get(part) != defined.get(part) %}
            {% do changed.append(part) %}
        {% endfor %}
    {% endif %}
    {{ return(changed) }}
{% endmacro %}


{#-
    The part of dbt's manifest that a publication keeps: of each versioned model its contract and
    what Feast takes from it, its grain tests, and the exposures.
-#}
{% macro kept_manifest() %}
    {% set kept = {'metadata': {'adapter_type': target.type}, 'nodes': {}, 'exposures': {}} %}
    {% for node in feature_models() %}
        {% set columns = {} %}
        {% for column in node.columns.values() %}
            {% do columns.update({column.name: {
                'name': column.name,
                'data_type': column.data_type,
                'description': column.description,
                'config': {'meta': (column.config or {}).get('meta') or column.meta or {}},
            }}) %}
        {% endfor %}
        {% do kept.nodes.update({node.unique_id: {
            'resource_type': 'model',
            'name': node.name,
            'unique_id': node.unique_id,
            'original_file_path': node.original_file_path,
            'description': node.description,
            'tags': node.tags,
            'config': {'meta': node.config.meta, 'contract': {'enforced': node.config.contract.enforced}},
            'columns': columns,
        }}) %}
    {% endfor %}
    {% for test in graph.nodes.values()
        if test.resource_type == 'test' and test.attached_node in kept.nodes and test.test_metadata.name == 'grain' %}
        {% do kept.nodes.update({test.unique_id: {
            'resource_type': 'test',
            'name': test.name,
            'attached_node': test.attached_node,
            'test_metadata': {'name': 'grain', 'kwargs': test.test_metadata.kwargs},
        }}) %}
    {% endfor %}
    {% for exposure in graph.exposures.values() %}
        {% do kept.exposures.update({exposure.unique_id: {
            'name': exposure.name,
            'unique_id': exposure.unique_id,
            'original_file_path': exposure.original_file_path,
            'description': exposure.description,
            'owner': exposure.owner,
            'depends_on': {'nodes': exposure.depends_on.nodes},
            'config': {'meta': exposure.config.meta or exposure.meta},
        }}) %}
    {% endfor %}
    {{ return(kept) }}
{% endmacro %}
