{#- The columns of feature tables: as defined, as stored, as published; and what is wrong with them. -#}


{#- The versioned tables, as nodes of dbt's graph. -#}
{% macro feature_models() %}
    {{ return(
        (graph.nodes.values() if graph_is_known() else [])
        | selectattr('resource_type', 'equalto', 'model')
        | selectattr('schema', 'equalto', 'features')
        | sort(attribute='name') | list
    ) }}
{% endmacro %}


{#-
    Columns of a versioned model that are no features, in their order: who, when, known when, and
    whether taken back.
-#}
{% macro key_columns(node) %}
    {% set columns = {} %}
    {% do columns.update(entity(entity_of(node)).join_keys) %}
    {% do columns.update({
        'as_of': 'timestamp with time zone',
        'known_at': 'timestamp with time zone',
        'is_retracted': 'boolean',
    }) %}
    {{ return(columns) }}
{% endmacro %}


{#- The types of features: those with an exact equivalent in Feast, besides numeric(p,s). -#}
{% macro feature_types() %}
    {{ return([
        'bigint', 'integer', 'double precision', 'real', 'boolean', 'text', 'bytea', 'date',
        'timestamp with time zone', 'uuid', 'jsonb',
        'text[]', 'bigint[]', 'double precision[]', 'boolean[]',
    ]) }}
{% endmacro %}


{#- The types of join keys. -#}
{% macro join_key_types() %}
    {{ return(['text', 'bigint', 'uuid']) }}
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
    {% do aliases.update(types_by_name(aliases.keys() | list)) %}
    {% for node in feature_models() %}
        {% set columns = {} %}
        {% for column in node.columns.values() %}
            {% set type = aliases.get(column.data_type, '') %}
            {% set size = modules.re.match('^.*[(] *([0-9]+) *(?:, *([0-9]+) *)?[)]$', column.data_type or '') %}
            {% if type == 'numeric' and size %}
                {% set type = 'numeric(' ~ size.group(1) ~ ',' ~ (size.group(2) or 0) ~ ')' %}
            {% endif %}
            {% do columns.update({column.name: type}) %}
        {% endfor %}
        {% do found.defined.update({node.name: columns}) %}
    {% endfor %}
    {% do found.update(columns_there(found.defined)) %}
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
        {% set declared = (node.config.meta or {}).get('made_from', {}).get('entity') %}
        {% set of_feast = ((node.config.meta or {}).get('feast') or {}).get('entity') %}
        {% set keys = key_columns(node) if entity_of(node) in entities() else {} %}
        {% if not keys or (declared and of_feast and declared != of_feast) %}
            {% do problems.append(
                node.name ~ ' (' ~ where ~ "): its entity is '" ~ (declared or '') ~ "' in the model and '"
                ~ (of_feast or '') ~ "' in meta.feast.entity; both are to say one of "
                ~ (entities() | sort | join(', '))
            ) %}
        {% endif %}
        {% for table in undeclared_tables(node) %}
            {% do problems.append(
                node.name ~ ' (' ~ node.original_file_path ~ ') reads stg_' ~ table ~ ', and what arrives there '
                ~ 'would not be noticed: say so where it calls pairs_to_compute'
            ) %}
        {% endfor %}
        {% for column, type in keys.items() %}
            {% if defined.get(column) != type %}
                {% do problems.append(
                    node.name ~ '.' ~ column ~ ' (' ~ where ~ ') is ' ~ (defined.get(column) or 'missing')
                    ~ ', must be ' ~ type
                ) %}
            {% elif stored and column not in stored %}
                {% do problems.append(
                    node.name ~ ' (' ~ where ~ ') was published without ' ~ column
                    ~ ': for another entity, give the table a new name'
                ) %}
            {% endif %}
        {% endfor %}
        {% for column, type in defined.items() if column not in keys %}
            {% if type not in feature_types() and not type.startswith('numeric(') %}
                {% do problems.append(
                    node.name ~ '.' ~ column ~ ' (' ~ where ~ ') is ' ~ (type or 'of no data_type')
                    ~ ', which has no exact equivalent in Feast; cast it at the end of the model to one of '
                    ~ (feature_types() | join(', ')) ~ ', numeric(precision,scale), and say so in its YAML'
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
    {% for name, entity in entities().items() %}
        {% for column, type in entity.join_keys.items() if type not in join_key_types() %}
            {% do problems.append(
                entity.spine.name ~ ': the join key ' ~ column ~ ' of ' ~ name ~ ' is ' ~ type ~ ', must be one of '
                ~ (join_key_types() | join(', '))
            ) %}
        {% endfor %}
    {% endfor %}
    {{ return(problems) }}
{% endmacro %}


{#- Raw tables whose staging models a feature model reads, and of which it does not speak. -#}
{% macro undeclared_tables(node) %}
    {% set made_from = (node.config.meta or {}).get('made_from') %}
    {% set found = [] %}
    {% if made_from %}
        {% set declared = [made_from.get('rows_of')] + made_from.get('states', []) + made_from.get('latest', [])
            + made_from.get('delivered', []) + (made_from.get('events', []) | map(attribute='table') | list) %}
        {% for name in node.depends_on.nodes if name in graph.nodes %}
            {% for source in graph.nodes[name].depends_on.nodes if source in graph.sources %}
                {% set table = graph.sources[source] %}
                {% if (table.config.meta or table.meta or {}).get('grain') and table.name not in declared %}
                    {% do found.append(table.name) %}
                {% endif %}
            {% endfor %}
        {% endfor %}
    {% endif %}
    {{ return(found) }}
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


{#- {table: {column: type}} of columns that are defined and that a stored table has not yet. -#}
{% macro new_columns(contracts) %}
    {% set found = {} %}
    {% for table, columns in contracts.defined.items() if table in contracts.stored %}
        {% for column, type in columns.items() if column not in contracts.stored[table] %}
            {% do found.setdefault(table, {}).update({column: type}) %}
        {% endfor %}
    {% endfor %}
    {{ return(found) }}
{% endmacro %}
