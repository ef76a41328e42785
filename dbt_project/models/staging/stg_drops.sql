-- One row a drop: the load that first brought each kind of file, as this build sees it.
with

loads as (
    select * from {{ source('raw', 'loads') }}
    where load_id <= {{ current_build().load_to }}
),

drops as (
    select
        as_of,
        min(load_id) as first_load,
        {%- for name, of in captured().items() %}
        min(load_id) filter (
            where table_name = '{{ of.table }}'
            {%- if of.column %} and coalesce('{{ of.column }}' = any(recorded), true){% endif %}
        ) as {{ name }}_load,
        {%- endfor %}
        min(load_id) filter (where table_name = 'users') as users_load
    from loads
    group by as_of
)

select * from drops
