{#-
    Every row's user is in some drop's users. Not dbt's `relationships`: its join reads all that all
    drops say about users. This is one look-up a user, however long the history is.
-#}
{% test user_is_known(model, column_name) %}
with

tested_users as (
    select distinct {{ column_name }} as user_id from {{ model }}
),

strangers as (
    select tested_users.user_id
    from tested_users
    where (
        select max(users.user_id) from {{ ref('stg_users') }} as users
        where users.user_id = tested_users.user_id
    ) is null
)

select tested_rows.*
from (select * from {{ model }}) as tested_rows
inner join strangers on tested_rows.{{ column_name }} = strangers.user_id
{% endtest %}
