{#-
    CTE body: for every pair of `pairs` that is in the spine, the pair and the aggregates that the
    caller writes, over the events within the reach before its as_of; a pair without events has them
    too (zero counts, null sums). In the aggregates the events go by the raw table's name.

        {% call over_events(usage, keys=['user_id']) %} count(*) as sessions {% endcall %}

    keys    the join keys of the pairs

    Postgres looks each pair up in an index: the events of a window are summed as they are read, with
    nothing to sort or spill however long the history is. Spark has no such index, and no aggregate
    in a lateral join that mixes inner and outer columns: it joins and groups.
-#}
{% macro over_events(events, keys) -%}
    {{ adapter.dispatch('over_events')(events, keys, caller()) }}
{%- endmacro %}

{% macro postgres__over_events(events, keys, aggregates) -%}
    select
        pairs.*,
        windows.*
    from pairs
    cross join lateral (
        select
            {{ aggregates }}
        from {{ events.relation }} as {{ events.table }}
        where {{ same(events.by or keys, events.table, 'pairs') }} and {{ events.window() }}
    ) as windows
    where pairs.in_spine
{%- endmacro %}

{% macro spark__over_events(events, keys, aggregates) -%}
    {%- set pair = keys + ['as_of'] -%}
    select
        filled.*,
        filled.windows.*
    from (
        select
            pairs.*,
            coalesce(grouped.windows, nothing.windows) as windows
        from pairs
        left join (
            select
                {{ columns_of('pairs', pair) }},
                struct(
                    {{ aggregates }}
                ) as windows
            from pairs
            inner join {{ events.relation }} as {{ events.table }}
                on {{ same(events.by or keys, events.table, 'pairs') }} and {{ events.window() }}
            group by {{ columns_of('pairs', pair) }}
        ) as grouped on {{ same(pair, 'pairs', 'grouped') }}
        -- What the aggregates say of no row at all.
        cross join (
            select
                struct(
                    {{ aggregates }}
                ) as windows
            from (select * from pairs where false) as pairs
            cross join (select * from {{ events.relation }} where false) as {{ events.table }}
        ) as nothing
        where pairs.in_spine
    ) as filled
{%- endmacro %}
