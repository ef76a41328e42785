{#-
    The newest versions hold exactly the spine's pairs: a missing one would vanish from training
    sets, one too many would be served. In `dbt build` the pairs that this build computed are
    looked at, in `dbt test` all of them.
-#}
{% test covers_the_spine(model, table) %}
{% set versions = ref(table) %}
{% set changed = ref('spine_changes') %}
{% set expected = ref('spine_user') %}
{% set condition = 'true' %}
{% if flags.WHICH == 'build' %}
    {% set expected = changed %}
    {% set condition = table ~ ' and in_spine' %}
{% endif %}
with

expected as (
    select user_id, as_of from {{ expected }} where {{ condition }}
),

newest as (
    select distinct on (versions.user_id, versions.as_of)
        versions.user_id,
        versions.as_of,
        versions.is_retracted
    from {{ versions }} as versions
    {% if flags.WHICH == 'build' %}
    inner join {{ changed }} as changed
        on versions.user_id = changed.user_id and versions.as_of = changed.as_of and changed.{{ table }}
    where {{ among('versions.as_of', 'as_of', changed ~ ' where ' ~ table) }}
    {% endif %}
    order by versions.user_id, versions.as_of, versions.known_at desc
),

present as (
    select user_id, as_of from newest where not is_retracted
)

select
    coalesce(expected.user_id, present.user_id) as user_id,
    coalesce(expected.as_of, present.as_of) as as_of,
    case when present.user_id is null then 'missing' else 'not in the spine' end as problem
from expected
full join present on expected.user_id = present.user_id and expected.as_of = present.as_of
where expected.user_id is null or present.user_id is null
{% endtest %}
