{% set support = events('support', at='opened_at', reach_days=180) %}
with

pairs as (
    {{ pairs_to_compute(entity='user', events=[support], delivered=['support_agg_90d']) }}
),

delivered as (
    select * from {{ ref('stg_support_agg') }}
),

measured as (
    {% call over_events(support, keys=['user_id']) %}
        count(*) filter (where {{ support.window(90) }}) as tickets_90d,
        count(*) filter (
            where kind = 'complaint' and {{ support.window(90) }}
        ) as complaints_90d,
        -- What was known at as_of: a ticket resolved later was still open then.
        count(*) filter (
            where resolved_at < pairs.as_of and {{ support.window(90) }}
        ) as resolved_90d,
        sum({{ microseconds('opened_at', 'resolved_at') }}) filter (
            where resolved_at < pairs.as_of and {{ support.window(90) }}
        ) as resolution_us_90d,
        count(*) filter (
            where
            coalesce(resolved_at >= pairs.as_of, true)
            and {{ support.window(180) }}
        ) as open_tickets,
        {{ newest(
            "kind || '/' || topic", 3, 'opened_at, ticket_id collate "C"', support.window(180)
        ) }} as last_categories
    {% endcall %}
),

final as (
    select
        measured.user_id,
        measured.as_of,
        case
            when {{ support.covered(90) }}
                then measured.tickets_90d
            else delivered.support_tickets_90d
        end as support_tickets_90d,
        case
            when {{ support.covered(90) }}
                then {{ ratio('measured.resolution_us_90d', '3600000000 * measured.resolved_90d') }}
            else delivered.ticket_avg_resolution_hrs_90d
        end as ticket_avg_resolution_hrs_90d,
        case
            when {{ support.covered(180) }}
                then measured.open_tickets
        end as open_tickets,
        case
            when {{ support.covered(90) }}
                then measured.complaints_90d
        end as complaints_90d,
        case
            when {{ support.covered(180) }}
                then coalesce(measured.last_categories, {{ no_texts() }})
        end as last_categories
    from measured
    left join delivered on measured.user_id = delivered.user_id and measured.as_of = delivered.as_of
),

{{ versions('final', 'pairs') }}
