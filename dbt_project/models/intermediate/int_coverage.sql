{#- What may be missing from a drop although windows look at it: docs/decisions/0014. -#}
{% set build = current_build() %}
{% set captures = looked_up_captures() %}
with

looked_up (table_name, column_name) as (
    {% for table, column in captures %}
    select '{{ table }}', '{{ column }}'
    {{ 'union all' if not loop.last }}
    {% else %}
    select '', '' where false
    {% endfor %}
),

loads as (
    select * from {{ ref('stg_loads') }}
),

as_ofs as (
    select as_of from {{ ref('int_calendar') }}
),

{% for when, horizon in [('now', build.load_to), ('published', build.load_from)] %}
drops_{{ when }} as (
    select as_of, lag(as_of) over (order by as_of) as since_drop
    from (select distinct as_of from loads where load_id <= {{ horizon }}) as drops
),

-- A drop that lacks the file, or the column, leaves a gap back to the drop before it.
gaps_{{ when }} as (
    select looked_up.*, drops.as_of as until_drop, drops.since_drop
    from looked_up
    cross join drops_{{ when }} as drops
    where
        not exists (
            select 1 from loads
            where
                loads.as_of = drops.as_of
                and loads.load_id <= {{ horizon }}
                and loads.table_name = looked_up.table_name
                and (
                    looked_up.column_name = ''
                    or coalesce({{ is_among('looked_up.column_name', 'loads.recorded') }}, true)
                )
        )
),

captured_{{ when }} as (
    select
        as_ofs.as_of,
        gaps.table_name,
        gaps.column_name,
        max(gaps.until_drop) as captured_since
    from as_ofs
    inner join gaps_{{ when }} as gaps on coalesce(gaps.since_drop < as_ofs.as_of, true)
    group by as_ofs.as_of, gaps.table_name, gaps.column_name
),
{% endfor %}

compared as (
    select
        as_of,
        table_name,
        column_name,
        captured_now.captured_since,
        captured_now.captured_since is distinct from captured_published.captured_since as is_changed
    from captured_now
    full join captured_published using (as_of, table_name, column_name)
)

select * from compared
