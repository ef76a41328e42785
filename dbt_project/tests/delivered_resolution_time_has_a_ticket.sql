-- A resolution time without a ticket is not an observation; a model would learn from an imputed value.
{{ config(severity='warn') }}
select user_id, as_of, ticket_avg_resolution_hrs_90d
from {{ get_where_subquery(ref('stg_support_agg')) }}
where support_tickets_90d = 0 and ticket_avg_resolution_hrs_90d is not null
