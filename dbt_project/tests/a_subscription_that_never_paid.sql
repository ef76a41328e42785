-- Active for no month and nothing paid: new users, or rows that were never filled in.
{{ config(severity='warn') }}
select user_id, as_of, months_active, total_paid
from {{ get_where_subquery(ref('stg_subscriptions')) }}
where months_active = 0 and total_paid = 0
