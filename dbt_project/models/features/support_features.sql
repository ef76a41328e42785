with

pairs as (
    select * from {{ ref('spine_changes') }} where support_features
),

tickets as (
    select * from {{ ref('stg_support') }}
),

delivered as (
    select * from {{ ref('stg_support_agg') }}
),

measured as (
    select
        pairs.*,
        windows.*
    from pairs
    cross join lateral (
        select
            count(*) filter (where {{ in_days('opened_at', 90, 'pairs.as_of') }}) as tickets_90d,
            count(*) filter (
                where kind = 'complaint' and {{ in_days('opened_at', 90, 'pairs.as_of') }}
            ) as complaints_90d,
            -- What was known at as_of: a ticket resolved later was still open then.
            count(*) filter (
                where resolved_at < pairs.as_of and {{ in_days('opened_at', 90, 'pairs.as_of') }}
            ) as resolved_90d,
            sum({{ microseconds('opened_at', 'resolved_at') }}) filter (
                where resolved_at < pairs.as_of and {{ in_days('opened_at', 90, 'pairs.as_of') }}
            ) as resolution_us_90d,
            count(*) filter (
                where
                coalesce(resolved_at >= pairs.as_of, true)
                and {{ in_days('opened_at', 180, 'pairs.as_of') }}
            ) as open_tickets
        from tickets
        where
            tickets.user_id = pairs.user_id
            and {{ in_days('tickets.opened_at', longest_window('support'), 'pairs.as_of') }}
    ) as windows
    where pairs.in_spine
),

final as (
    select
        measured.user_id,
        measured.as_of,
        case
            when {{ covered('measured.support_since', 90, 'measured.as_of') }}
                then measured.tickets_90d
            else delivered.support_tickets_90d
        end as support_tickets_90d,
        case
            when {{ covered('measured.support_since', 90, 'measured.as_of') }}
                then {{ ratio('measured.resolution_us_90d', '3600000000 * measured.resolved_90d') }}
            else delivered.ticket_avg_resolution_hrs_90d
        end as ticket_avg_resolution_hrs_90d,
        case
            when {{ covered('measured.support_since', 180, 'measured.as_of') }}
                then measured.open_tickets
        end as open_tickets,
        case
            when {{ covered('measured.support_since', 90, 'measured.as_of') }}
                then measured.complaints_90d
        end as complaints_90d
    from measured
    left join delivered on measured.user_id = delivered.user_id and measured.as_of = delivered.as_of
),

{{ versions('final', 'pairs') }}
