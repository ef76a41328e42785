-- A feature that is the same number for everyone tells a model nothing; the source may have sent
-- an average over all users instead of one for each.
{{ config(severity='warn') }}
select as_of, min(avg_session_mins_7d) as everyones_value, count(*) as users
from {{ get_where_subquery(ref('stg_usage_agg')) }}
group by as_of
having count(*) > 10 and count(distinct avg_session_mins_7d) = 1
