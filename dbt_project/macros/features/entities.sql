{#- What features are about: the models with meta.entity, and the raw tables by their declarations. -#}


{#- Whether models and their YAML can be asked: not while dbt parses, nor in a unit test. -#}
{% macro graph_is_known() %}
    {{ return(execute and graph.nodes is defined) }}
{% endmacro %}


{#-
    {entity: {'join_keys': {column: type}, 'spine': its node, 'made_from': what the spine declares}};
    none where the graph is not known.
-#}
{% macro entities() %}
    {% set found = {} %}
    {% for node in (graph.nodes.values() if graph_is_known() else []) if node.resource_type == 'model' and node.config.meta.get('entity') %}
        {% do found.update({node.config.meta.entity.name: {
            'join_keys': node.config.meta.entity.join_keys,
            'spine': node,
            'made_from': node.config.meta.get('made_from', {}),
        }}) %}
    {% endfor %}
    {{ return(found) }}
{% endmacro %}


{#- One of them; where the graph is not known, any columns will do. -#}
{% macro entity(name) %}
    {% if not graph_is_known() %}
        {{ return({'join_keys': {'key': 'text'}, 'made_from': {}}) }}
    {% endif %}
    {% set known = entities() %}
    {% if name not in known %}
        {% do exceptions.raise_compiler_error(
            "there is no entity '" ~ name ~ "'; there are: " ~ (known | sort | join(', '))
            ~ '. An entity is a model spine_' ~ name ~ ' with config.meta.entity in its YAML, and changes_' ~ name
        ) %}
    {% endif %}
    {{ return(known[name]) }}
{% endmacro %}


{#- The entity whose keys a versioned model has, by the model's own words. -#}
{% macro entity_of(node) %}
    {% set meta = node.config.meta or {} %}
    {{ return((meta.get('made_from') or {}).get('entity') or (meta.get('feast') or {}).get('entity')) }}
{% endmacro %}


{#- A raw table's declaration in models/staging/_sources.yml: {'relation', 'grain', 'key', 'event_time'}. -#}
{% macro raw_table(name, grains) %}
    {% if not graph_is_known() %}
        {{ return({'relation': name, 'grain': grains[0], 'key': ['key'], 'event_time': 'event_time'}) }}
    {% endif %}
    {% set known = [] %}
    {% for source in graph.sources.values() | sort(attribute='name') if source.source_name == 'raw' %}
        {% set meta = source.config.meta or source.meta or {} %}
        {% if meta.get('grain') in grains %}
            {% if source.name == name %}
                {{ return({
                    'relation': source.relation_name,
                    'grain': meta.grain,
                    'key': meta.key,
                    'event_time': meta.get('event_time'),
                }) }}
            {% endif %}
            {% do known.append(source.name) %}
        {% endif %}
    {% endfor %}
    {% do exceptions.raise_compiler_error(
        "there is no raw table '" ~ name ~ "' of grain " ~ (grains | join(' or ')) ~ '; there are: '
        ~ (known | join(', ')) ~ '. A table is declared in models/staging/_sources.yml'
    ) %}
{% endmacro %}


{#- Columns with their table's name before them. -#}
{% macro columns_of(table, columns) -%}
    {{ table }}.{{ columns | join(', ' ~ table ~ '.') }}
{%- endmacro %}


{#- Whether two tables speak of the same. -#}
{% macro same(columns, left, right) -%}
    {%- for column in columns -%}
        {{ left }}.{{ column }} = {{ right }}.{{ column }}{{ ' and ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}
