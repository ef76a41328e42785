{% set build = current_build() %}
{#- The drops of a state at or before an as_of, and after it, now and when it was published. -#}
{% set before = 'drops.as_of <= as_ofs.as_of' %}
{% set after = 'drops.as_of > as_ofs.as_of' %}
{% set published = 'not as_ofs.is_new and drops.first_load <= ' ~ build.load_from %}
with

as_ofs as (
    select * from {{ ref('int_calendar') }}
),

drops as (
    select
        table_name,
        as_of,
        min(load_id) as first_load
    from {{ ref('stg_loads') }}
    where table_name in ({{ looked_up_states() }})
    group by table_name, as_of
),

drops_around as (
    select
        as_ofs.as_of,
        drops.table_name,
        as_ofs.is_new,
        max(drops.as_of) filter (where {{ before }}) as state_as_of,
        min(drops.as_of) filter (where {{ after }}) as next_as_of,
        max(drops.as_of) filter (where {{ before }} and {{ published }}) as published_state_as_of,
        min(drops.as_of) filter (where {{ after }} and {{ published }}) as published_next_as_of
    from as_ofs
    cross join drops
    group by as_ofs.as_of, drops.table_name, as_ofs.is_new
),

states as (
    select
        as_of,
        table_name,
        is_new,
        state_as_of,
        published_state_as_of,
        case when coalesce(state_as_of <> as_of, true) then next_as_of end as next_state_as_of,
        case
            when coalesce(published_state_as_of <> as_of, true) then published_next_as_of
        end as published_next_state_as_of
    from drops_around
),

compared as (
    select
        states.as_of,
        states.table_name,
        states.state_as_of,
        states.next_state_as_of,
        states.published_state_as_of,
        states.published_next_state_as_of,
        states.is_new or (
            states.state_as_of is distinct from states.published_state_as_of
            or states.next_state_as_of is distinct from states.published_next_state_as_of
        ) as is_changed
    from states
)

select * from compared
