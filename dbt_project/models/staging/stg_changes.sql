-- What came into effect or went out of effect since the last publication. Both sides of a corrected
-- row are here, so that a session moved to another day or user marks the place it left as well.
{% set build = current_build() %}
{% set event_at = {'usage': 'started_at', 'payments': 'attempted_at', 'support': 'opened_at'} %}
{% set tables = [
    'users', 'subscriptions', 'labels', 'usage_agg_30d', 'payments_agg_90d', 'support_agg_90d',
    'usage', 'payments', 'support',
] %}
{% for table in tables %}
{% for load in ['load_id', 'superseded_by'] %}
select
    '{{ table }}' as table_name,
    user_id,
    as_of,
    {{ event_at.get(table, 'cast(null as ' ~ type_instant() ~ ')') }} as event_at
from {{ source('raw', table) }}
where {{ load }} > {{ build.load_from }} and {{ load }} <= {{ build.load_to }}
{{ 'union all' if not loop.last }}
{% endfor %}
{{ 'union all' if not loop.last }}
{% endfor %}
