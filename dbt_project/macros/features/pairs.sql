{#-
    The pairs of an entity and an as_of that this build computes for the model that calls this: those
    that new rows can have changed, by what the model says here and nothing else.

    entity     see spine_<entity>; the pairs have its join keys, in_spine and what its spine knows
    events     what `events()` gave; the pairs then say since when these are captured
    states     raw tables of state whose row in the drop that describes the entity is read: that of
               the pair's state_as_of, where its spine is made from a state
    latest     raw tables of state whose row in their own newest drop at or before as_of is read: that
               of the pair's <table>_as_of
    delivered  raw tables of aggregates whose row of exactly the pair's as_of is read
-#}
{% macro pairs_to_compute(entity, events=[], states=[], latest=[], delivered=[]) %}
    {%- if not execute -%}
        {%- set told = [] -%}
        {%- for of in events -%}
            {%- do told.append({
                'table': of.table, 'reach_days': of.reach_days, 'by': of.by, 'may_lack': of.may_lack,
            }) -%}
        {%- endfor -%}
        {%- do config(meta={'made_from': {
            'entity': entity, 'events': told, 'states': states, 'latest': latest, 'delivered': delivered,
        }}) -%}
    {%- endif -%}
    {%- set changed = ref('changes_' ~ entity) -%}
    {%- set coverage = ref('int_coverage') if events -%}
    {%- set drops = ref('int_states') if latest -%}
    {%- if states and graph_is_known() and 'state' not in entity_declared(entity) -%}
        {%- do exceptions.raise_compiler_error(
            model.name ~ ': no drop describes a ' ~ entity ~ ', which is seen in events. Instead of states='
            ~ tojson(states) ~ ', say latest=' ~ tojson(states) ~ ' to read the newest drop of each'
        ) -%}
    {%- endif -%}
    select
        changes.*
        {%- for of in events %}{% for column in [none] + of.may_lack %},
        coverage.{{ since_column(of.table, column) }}
        {%- endfor %}{% endfor %}
        {%- for table in latest %},
        {{ table }}.state_as_of as {{ table }}_as_of
        {%- endfor %}
    from {{ changed }} as changes
    {%- if events %}
    left join (
        select
            as_of
            {%- for of in events %}{% for column in [none] + of.may_lack %},
            max(captured_since) filter (
                where table_name = '{{ of.table }}' and column_name = '{{ column or '' }}'
            ) as {{ since_column(of.table, column) }}
            {%- endfor %}{% endfor %}
        from {{ coverage }}
        group by as_of
    ) as coverage on changes.as_of = coverage.as_of
    {%- endif %}
    {%- for table in latest %}
    left join {{ drops }} as {{ table }}
        on changes.as_of = {{ table }}.as_of and {{ table }}.table_name = '{{ table }}'
    {%- endfor %}
    where {{ computes(model.name) }}
{%- endmacro %}


{#-
    For a versioned table that is a state as delivered, and not about everyone in a spine: the
    (key, as_of) of the rows that came or went.
-#}
{% macro delivered_pairs(entity, table) %}
    {%- if not execute -%}
        {%- do config(meta={'made_from': {'entity': entity, 'rows_of': table}}) -%}
    {%- endif -%}
    {%- set rows = ref('stg_' ~ table) -%}
    {%- set columns = (entity_keys(entity) + ['as_of']) | join(', ') -%}
    {%- if current_build().recompute -%}
    select {{ columns }} from {{ rows }}
    {%- else -%}
    select distinct {{ columns }} from ({{ changed_rows(table, entity_keys(entity) + ['as_of']) }}) as changed
    {%- endif -%}
{%- endmacro %}


{#- Whether a row of changes_<entity> is for that view. (No array: dbt's unit tests cannot write one.) -#}
{% macro computes(view) -%}
    (changes.views is null or position(',{{ view }},' in changes.views) > 0)
{%- endmacro %}


{% macro entity_keys(name) %}
    {{ return(entity(name).join_keys.keys() | list) }}
{% endmacro %}


{#- What an entity's spine is made from, see spine_from_state and spine_from_events. -#}
{% macro entity_declared(name) %}
    {{ return(entity(name).made_from) }}
{% endmacro %}
