{#- Of the test covers_the_spine, in whose own text `model` is the table and not the test. -#}
{% macro uncovered_pairs() %}
{% if execute %}
{% set tested = graph.nodes[model.attached_node] %}
{% set pair = entity_keys(entity_of(tested)) + ['as_of'] %}
{% set changes = relation_of('changes_' ~ entity_of(tested)) %}
{% set only_new = flags.WHICH == 'build' %}
with

expected as (
    {% if only_new %}
    select {{ pair | join(', ') }} from {{ changes }} as changes where {{ computes(tested.name) }} and in_spine
    {% else %}
    select {{ pair | join(', ') }} from {{ relation_of('spine_' ~ entity_of(tested)) }}
    {% endif %}
),

newest as (
    {%- set candidates %}
    select {{ columns_of('versions', pair) }}, versions.is_retracted, versions.known_at
    from {{ tested.relation_name }} as versions
    {% if only_new %}
    inner join {{ changes }} as changes
        on {{ same(pair, 'versions', 'changes') }} and {{ computes(tested.name) }}
    where {{ among('versions.as_of', 'as_of', changes ~ ' as changes where ' ~ computes(tested.name)) }}
    {% endif %}
    {%- endset %}
    {{ first_of_each(pair, pair + ['is_retracted'], 'known_at', candidates) }}
),

present as (
    select {{ pair | join(', ') }} from newest where not is_retracted
)

select
    {%- for column in pair %}
    coalesce(expected.{{ column }}, present.{{ column }}) as {{ column }},
    {%- endfor %}
    case when present.as_of is null then 'missing' else 'not in the spine' end as problem
from expected
full join present on {{ same(pair, 'expected', 'present') }}
where expected.as_of is null or present.as_of is null
{% endif %}
{% endmacro %}
