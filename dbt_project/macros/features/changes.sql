{#-
    A model changes_<entity>: one row a pair that this build computes, and for which views. Those are
    the pairs that raw rows which came into or went out of effect since the last publication can have
    changed, by what the entity's spine and its feature models declare (spine_from_*,
    pairs_to_compute). On a first build, or with `recompute`, the whole spine.

    In order of the keys: whatever is looked up and appended for them then lies close together.
-#}
{% macro changes(entity) %}
    {%- set spine = ref('spine_' ~ entity) -%}
    {%- for needed in ['int_calendar', 'int_coverage', 'int_states'] %}{% do ref(needed) %}{% endfor -%}
    {%- set keys = entity_keys(entity) -%}
    {%- set made_from = entity_declared(entity) -%}
    {%- set as_known = ([made_from.since] if made_from.get('since') else []) + (['state_as_of'] if 'state' in made_from else []) -%}
    {%- if current_build().recompute -%}
with

changed_pairs as (
    select
        {{ (keys + ['as_of'] + as_known) | join(', ') }},
        true as in_spine,
        cast(null as {{ type_text() }}) as views -- null: for all of them
    from {{ spine }}
)
    {%- else -%}
        {%- set touched = [] -%}
with

as_ofs as (
    select * from {{ ref('int_calendar') }}
),

{% if 'state' in made_from -%}
{{ listed_otherwise(keys, made_from.state, touched) }}
{%- else -%}
{{ seen_otherwise(entity, keys, made_from, touched) }}
{%- endif %}

{%- for view in feature_models() if entity_of(view) == entity -%}
{{ touched_for(view, entity, keys, made_from, touched) }}
{%- endfor %}

affected as (
    select
        {{ keys | join(', ') }},
        as_of,
        case
            when count(*) = count(view_name) then ',' || string_agg(distinct view_name, ',') || ','
        end as views
    from (
        {%- for name, view in touched %}
        select {{ keys | join(', ') }}, as_of, {{ literal(view) if view else 'cast(null as ' ~ type_text() ~ ')' }} as view_name
        from {{ name }}
        {{ 'union all' if not loop.last }}
        {%- endfor %}
    ) as touched
    group by {{ keys | join(', ') }}, as_of
),

changed_pairs as (
    {%- if 'state' in made_from %}
    {%- set rows = relation_of('stg_' ~ made_from.state) %}
    {%- set since = made_from.since %}
    select
        {{ columns_of('affected', keys) }},
        affected.as_of,
        {%- if since %}
        coalesce(listed.{{ since }}, next_listed.{{ since }}) as {{ since }},
        {%- endif %}
        states.state_as_of,
        {{ is_listed(keys, since) }}{% if since %} or {{ came_since(keys, since) }}{% endif %} as in_spine,
        affected.views
    from affected
    inner join {{ ref('int_states') }} as states
        on affected.as_of = states.as_of and states.table_name = '{{ made_from.state }}'
    left join {{ rows }} as listed
        on {{ same(keys, 'affected', 'listed') }} and states.state_as_of = listed.as_of
    left join {{ rows }} as next_listed
        on {{ same(keys, 'affected', 'next_listed') }} and states.next_state_as_of = next_listed.as_of
    {%- else %}
    select
        {{ columns_of('affected', keys) }},
        affected.as_of,
        {%- for table in made_from.seen_in %}
        exists (
            select 1 from {{ relation_of('stg_' ~ table) }} as {{ table }}
            where {{ same(keys, table, 'affected') }} and {{ seen_window(table, made_from.seen_days, 'affected.as_of') }}
        ){{ ' or' if not loop.last }}
        {%- endfor %} as in_spine,
        affected.views
    from affected
    {%- endif %}
)
    {%- endif %}

select * from changed_pairs
order by {{ keys | join(', ') }}, as_of
{%- endmacro %}


{#- Pairs whose membership in a spine from a state can have changed. -#}
{% macro listed_otherwise(keys, table, touched) -%}
{%- do touched.append(('membership', none)) -%}
states as (
    select * from {{ ref('int_states') }} where table_name = '{{ table }}'
),

-- Which drops decide who is in the spine at an as_of, now and when it was published.
deciding as (
    {%- for drop in ['state_as_of', 'next_state_as_of', 'published_state_as_of', 'published_next_state_as_of'] %}
    select as_of, {{ drop }} as drop_as_of from states where {{ drop }} is not null
    {{ 'union' if not loop.last }}
    {%- endfor %}
),

membership as (
    select {{ columns_of('changed', keys) }}, deciding.as_of
    from ({{ changed_rows(table, keys + ['as_of']) }}) as changed
    inner join deciding on changed.as_of = deciding.drop_as_of

    union

    select {{ columns_of('listed', keys) }}, states.as_of
    from states
    inner join deciding on states.as_of = deciding.as_of
    inner join {{ relation_of('stg_' ~ table) }} as listed on deciding.drop_as_of = listed.as_of
    where states.is_changed
),
{%- endmacro %}


{#- Pairs whose membership in a spine from events can have changed. -#}
{% macro seen_otherwise(entity, keys, made_from, touched) -%}
{{ seen(keys, made_from.seen_in, made_from.seen_days, only='is_new') }},

new_as_ofs as (
    select {{ columns_of('seen', keys) }}, as_ofs.as_of
    from seen
    inner join as_ofs on seen.ordinal = as_ofs.ordinal
    where as_ofs.is_new
),
{%- do touched.append(('new_as_ofs', none)) -%}
{%- for table in made_from.seen_in -%}
    {{ reached_by(table, keys, made_from.seen_days, entity, keys, made_from, touched, 'seen_in_' ~ table, none) }}
{%- endfor -%}
{%- endmacro %}


{#- Pairs of which a view's features can have changed, its spine apart. -#}
{% macro touched_for(view, entity, keys, made_from, touched) -%}
    {%- set declared = view.config.meta.get('made_from', {}) -%}
    {%- set name = view.name -%}
    {%- set states_of = made_from.get('state') -%}
    {%- for of in declared.get('events', []) -%}
        {{ reached_by(of.table, of.by or keys, of.reach_days, entity, keys, made_from, touched, name ~ '_' ~ of.table, name) }}
    {%- endfor -%}
    {%- for table in declared.get('delivered', []) + declared.get('states', []) + declared.get('latest', []) -%}
        {%- set by = raw_table(table, ['state', 'aggregate']).key -%}
        {%- set part = name ~ '_' ~ table -%}
        {%- set drops_of = states_of if table in declared.states else table %}

{{ part }}_rows as (
    select distinct {{ columns_of('changed', by) }}, as_ofs.as_of
    from ({{ changed_rows(table, by + ['as_of']) }}) as changed
    {%- if table not in declared.delivered %}
    inner join {{ ref('int_states') }} as as_ofs
        on changed.as_of = as_ofs.state_as_of and as_ofs.table_name = '{{ drops_of }}'
    {%- else %}
    inner join as_ofs on changed.as_of = as_ofs.as_of
    {%- endif %}
),
        {{- with_all_keys(part ~ '_rows', by, entity, keys, made_from, touched, part, name) -}}
    {%- endfor -%}
    {%- set changed = [] -%}
    {%- for of in declared.get('events', []) -%}
        {%- for column in [''] + of.may_lack -%}
            {%- do changed.append("(table_name = '" ~ of.table ~ "' and column_name = '" ~ column ~ "')") -%}
        {%- endfor -%}
    {%- endfor -%}
    {%- if changed -%}
        {%- set capture = 'select as_of from ' ~ ref('int_coverage') ~ ' where is_changed and (' ~ (changed | join(' or ')) ~ ')' -%}
        {{ everyone_at(capture, keys, entity, made_from, touched, name ~ '_capture', name) }}
    {%- endif -%}
    {%- for table in declared.get('latest', []) -%}
        {%- set drops = 'select as_of from ' ~ ref('int_states') ~ " where is_changed and table_name = '" ~ table ~ "'" -%}
        {{ everyone_at(drops, keys, entity, made_from, touched, name ~ '_drops_of_' ~ table, name) }}
    {%- endfor -%}
{%- endmacro %}


{#-
    CTE `part`: the pairs within reach of an event table's changed rows. An event between two as_of's
    is in the windows of those after it, up to the last that reaches it. Of a new as_of all pairs are
    computed anyway.
-#}
{% macro reached_by(table, by, days, entity, keys, made_from, touched, part, view) -%}
    {%- set event_at = raw_table(table, ['event']).event_time %}

{{ part }}_reach as (
    select
        {{ by | join(', ') }},
        {{ as_ofs_until(event_at) }} + 1 as first_ordinal,
        max({{ last_reached(event_at, days) }}) as last_ordinal
    from ({{ changed_rows(table, by + [event_at]) }}) as changed
    {{ beside_as_ofs() }}
    where {{ event_at }} < (select max(as_of) from as_ofs where not is_new)
        {%- for key in by %} and {{ key }} is not null{% endfor %}
    group by {{ by | join(', ') }}, first_ordinal
),

{{ part }}_rows as (
    select {{ columns_of('reach', by) }}, as_ofs.as_of
    from {{ part }}_reach as reach
    cross join lateral {{ series('reach.first_ordinal', 'reach.last_ordinal') }}
    inner join as_ofs on reached.ordinal = as_ofs.ordinal and not as_ofs.is_new
),
    {{- with_all_keys(part ~ '_rows', by, entity, keys, made_from, touched, part, view) -}}
{%- endmacro %}


{#- CTE `part`: rows that name some of an entity's keys, as the pairs that they concern. -#}
{% macro with_all_keys(rows, by, entity, keys, made_from, touched, part, view) -%}
    {%- do touched.append((part, view)) -%}
    {%- set others = keys | reject('in', by) | list -%}
    {%- set strange = by | reject('in', keys) | list -%}
    {%- if strange -%}
        {%- do exceptions.raise_compiler_error(
            (view or 'spine_' ~ entity) ~ ': ' ~ part ~ ' is by ' ~ (strange | join(', ')) ~ ', and the join keys of '
            ~ entity ~ ' are ' ~ (keys | join(', '))
        ) -%}
    {%- endif %}

{{ part }} as (
    {%- if not others %}
    select {{ keys | join(', ') }}, as_of from {{ rows }}
    {%- elif 'state' in made_from %}
    select {{ columns_of('spine', keys) }}, spine.as_of
    from {{ rows }} as part
    inner join {{ ref('spine_' ~ entity) }} as spine on {{ same(by, 'part', 'spine') }} and part.as_of = spine.as_of
    {%- else %}
    {%- for table in made_from.seen_in %}
    select distinct {{ columns_of('part', by) }}, {{ columns_of(table, others) }}, part.as_of
    from {{ rows }} as part
    inner join {{ relation_of('stg_' ~ table) }} as {{ table }}
        on {{ same(by, table, 'part') }} and {{ seen_window(table, made_from.seen_days, 'part.as_of') }}
        {%- for key in others %} and {{ table }}.{{ key }} is not null{% endfor %}
    {{ 'union' if not loop.last }}
    {%- endfor %}
    {%- endif %}
),
{%- endmacro %}


{#- CTE `part`: all pairs of some as_of's. -#}
{% macro everyone_at(as_ofs_query, keys, entity, made_from, touched, part, view) -%}
    {%- do touched.append((part, view)) %}

{{ part }} as (
    select {{ keys | join(', ') }}, as_of
    from {{ ref('spine_' ~ entity) }}
    where
        as_of in ({{ as_ofs_query }})
        and exists ({{ as_ofs_query }}) -- if not, the spine is not read
),
{%- endmacro %}


{% macro seen_window(table, days, as_of) -%}
    {%- set event_at = table ~ '.' ~ raw_table(table, ['event']).event_time -%}
    {{ event_at }} < {{ as_of }}{% if days != 'all' %} and {{ event_at }} >= {{ as_of }} - interval '{{ days }} days'{% endif %}
{%- endmacro %}


{#- What came into effect or went out of effect since the last publication: both sides of a corrected
    row, so that a session moved to another day or user marks the place it left as well. -#}
{% macro changed_rows(table, columns) -%}
    {%- set build = current_build() -%}
    {%- set raw = raw_table(table, ['event', 'state', 'aggregate']).relation -%}
    {%- for load in ['load_id', 'superseded_by'] %}
        select {{ columns | join(', ') }} from {{ raw }}
        where {{ load }} > {{ build.load_from }} and {{ load }} <= {{ build.load_to }}
        {{- ' union all' if not loop.last }}
    {%- endfor %}
{%- endmacro %}
