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
        min(load_id) filter (where table_name = 'users') as users_load,
        min(load_id) filter (where table_name = 'usage') as usage_load,
        min(load_id) filter (where table_name = 'payments') as payments_load,
        min(load_id) filter (where table_name = 'support') as support_load
    from loads
    group by as_of
)

select * from drops
