{#-
    The part of dbt's manifest that a publication keeps: of each versioned model its contract and
    what Feast takes from it, its grain tests, the entities, and the exposures.
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
    {% for entity in entities().values() %}
        {% do kept.nodes.update({entity.spine.unique_id: {
            'resource_type': 'model',
            'name': entity.spine.name,
            'unique_id': entity.spine.unique_id,
            'original_file_path': entity.spine.original_file_path,
            'description': entity.spine.description,
            'config': {'meta': entity.spine.config.meta},
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
