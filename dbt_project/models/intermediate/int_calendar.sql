{% set build = current_build() %}
with

calendar as (
    {{ as_ofs(ref('stg_loads'), build.load_to, build.since) }}
),

published as (
    {{ as_ofs(ref('stg_loads'), build.load_from, build.published_since) }}
),

compared as (
    select
        calendar.as_of,
        row_number() over (order by calendar.as_of) as ordinal,
        published.as_of is null as is_new
    from calendar
    left join published on calendar.as_of = published.as_of
)

select * from compared
