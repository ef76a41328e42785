{% set build = current_build() %}
with

calendar as (
    {{ as_ofs(build.load_to) }}
),

published as (
    {{ as_ofs(build.load_from) }}
),

compared as (
    select
        calendar.*,
        row_number() over (order by calendar.as_of) as ordinal,
        published.as_of is null as is_new,
        published.as_of is null or (
            calendar.state_as_of is distinct from published.state_as_of
            or calendar.next_state_as_of is distinct from published.next_state_as_of
            {%- for name in captured() %}
            or calendar.{{ name }}_since is distinct from published.{{ name }}_since
            {%- endfor %}
        ) as is_changed,
        published.state_as_of as published_state_as_of,
        published.next_state_as_of as published_next_state_as_of
    from calendar
    left join published on calendar.as_of = published.as_of
)

select * from compared
