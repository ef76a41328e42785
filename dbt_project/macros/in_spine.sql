{#-
    Who is in the spine at an as_of: one of these two holds. They speak of `users`, the user as the
    drop of state_as_of lists them, and `next_users`, as that of next_state_as_of does.

    at   relation with as_of and state_as_of, see spine_as_of
-#}
{% macro listed(at) -%}
    coalesce(users.signup_date < {{ utc_date(at ~ '.as_of') }}, false)
{%- endmacro %}

{% macro signed_up_since(at) -%}
    (
        users.user_id is null
        and coalesce(next_users.signup_date >= {{ utc_date(at ~ '.state_as_of') }}, false)
        and coalesce(next_users.signup_date < {{ utc_date(at ~ '.as_of') }}, false)
    )
{%- endmacro %}
