{#-
    Every row's user is in some drop's users. Not dbt's `relationships`: its join reads all of the
    users for each new row where the planner expects none.
-#}
{% test user_is_known(model, column_name) %}
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
