{#-
    Every row's user is in some drop's users. The loader refuses rows of others, but a corrected
    users.csv may take out users whose rows stay: no as_of has them in its spine, so those rows are
    in no feature. A warning counts them, as an error would stop every later build for good.

    Not dbt's `relationships`: its join reads all of the users for each new row where the planner
    expects none.
-#}
{% test user_is_known(model, column_name) %}
{{ config(severity='warn') }}
with

tested_rows as (
    select * from {{ model }}
)

select tested_rows.*
from tested_rows
where not exists (
    select users.user_id from {{ ref('stg_users') }} as users
    where users.user_id = tested_rows.{{ column_name }}
)
{% endtest %}
