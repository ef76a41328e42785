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

-- What was known at as_of: a ticket resolved later was still open then.
seen as (
    select
        pairs.user_id,
        pairs.as_of,
        tickets.opened_at,
        tickets.kind,
        case when tickets.resolved_at < pairs.as_of then tickets.resolved_at end as resolved_at
    from pairs
    inner join tickets
        on pairs.user_id = tickets.user_id and {{ in_days('tickets.opened_at', 180, 'pairs.as_of') }}
    where pairs.in_spine
),

measured as (
    select
        user_id,
        as_of,
        count(*) filter (where {{ in_days('opened_at', 90) }}) as tickets_90d,
        count(*) filter (where {{ in_days('opened_at', 90) }} and kind = 'complaint') as complaints_90d,
        count(*) filter (where {{ in_days('opened_at', 90) }} and resolved_at is not null) as resolved_90d,
        sum({{ microseconds('opened_at', 'resolved_at') }}) filter (
            where {{ in_days('opened_at', 90) }}
        ) as resolution_us_90d,
        count(*) filter (where resolved_at is null) as open_tickets
    from seen
    group by user_id, as_of
),

final as (
    select
        pairs.user_id,
        pairs.as_of,
        case
            when {{ covered('pairs.support_since', 90, 'pairs.as_of') }} then coalesce(measured.tickets_90d, 0)
            else delivered.support_tickets_90d
        end as support_tickets_90d,
        case
            when {{ covered('pairs.support_since', 90, 'pairs.as_of') }}
                then {{ ratio('measured.resolution_us_90d', '3600000000 * measured.resolved_90d') }}
            else delivered.ticket_avg_resolution_hrs_90d
        end as ticket_avg_resolution_hrs_90d,
        case
            when {{ covered('pairs.support_since', 180, 'pairs.as_of') }} then coalesce(measured.open_tickets, 0)
        end as open_tickets,
        case
            when {{ covered('pairs.support_since', 90, 'pairs.as_of') }} then coalesce(measured.complaints_90d, 0)
        end as complaints_90d
    from pairs
    left join measured on pairs.user_id = measured.user_id and pairs.as_of = measured.as_of
    left join delivered on pairs.user_id = delivered.user_id and pairs.as_of = delivered.as_of
    where pairs.in_spine
),

{{ versions('final', 'pairs') }}
