{{ config(indexes=[{'columns': ['user_id', 'as_of'], 'unique': true}]) }}
{% set build = current_build() %}
{% set all_changes = ref('stg_changes') %} {#- named here because dbt reads one branch only -#}
{% set all_users = ref('stg_users') %}
{% set tables = ['user', 'subscription', 'usage', 'payment', 'support'] %}
with

as_ofs as (
    select * from {{ ref('spine_as_of') }}
),

spine as (
    select * from {{ ref('spine_user') }}
),

{% if build.recompute %}
changed_pairs as (
    select
        spine.user_id,
        spine.as_of,
        {%- for table in tables %}
        true as {{ table }}_features,
        {%- endfor %}
        true as in_spine,
        spine.signup_date,
        as_ofs.state_as_of,
        as_ofs.usage_since,
        as_ofs.payments_since,
        as_ofs.support_since
    from spine
    inner join as_ofs on spine.as_of = as_ofs.as_of
)
{% else %}
changes as (
    select * from {{ all_changes }}
),

-- Which drops' users decide who is in the spine at an as_of, now and when it was published.
sources_of_users as (
    select as_of, state_as_of as drop_as_of from as_ofs
    union
    select as_of, next_state_as_of from as_ofs where next_state_as_of is not null
    union
    select as_of, published_state_as_of from as_ofs where published_state_as_of is not null
    union
    select as_of, published_next_state_as_of from as_ofs where published_next_state_as_of is not null
),

membership as (
    select changes.user_id, sources_of_users.as_of
    from changes
    inner join sources_of_users on changes.as_of = sources_of_users.drop_as_of
    where changes.table_name = 'users'

    union

    select users.user_id, as_ofs.as_of
    from as_ofs
    inner join sources_of_users on as_ofs.as_of = sources_of_users.as_of
    inner join {{ all_users }} as users on sources_of_users.drop_as_of = users.as_of
    where as_ofs.is_changed
),

subscriptions as (
    select distinct changes.user_id, as_ofs.as_of
    from changes
    inner join as_ofs on changes.as_of = as_ofs.state_as_of
    where changes.table_name = 'subscriptions'
),

{% for table, events, delivered in [
    ('usage', 'usage', 'usage_agg_30d'),
    ('payment', 'payments', 'payments_agg_90d'),
    ('support', 'support', 'support_agg_90d'),
] %}
{{ events }} as (
    select changes.user_id, as_ofs.as_of
    from changes
    inner join as_ofs
        on changes.event_at < as_ofs.as_of
        and changes.event_at >= as_ofs.as_of - interval '{{ longest_window(events) }} days'
    where changes.table_name = '{{ events }}'

    union

    select changes.user_id, changes.as_of
    from changes
    inner join as_ofs on changes.as_of = as_ofs.as_of
    where changes.table_name = '{{ delivered }}'
),
{% endfor %}

affected as (
    select
        user_id,
        as_of,
        bool_or(part in ('membership')) as user_features,
        bool_or(part in ('membership', 'subscriptions')) as subscription_features,
        bool_or(part in ('membership', 'usage')) as usage_features,
        bool_or(part in ('membership', 'payments')) as payment_features,
        bool_or(part in ('membership', 'support')) as support_features
    from (
        {% for part in ['membership', 'subscriptions', 'usage', 'payments', 'support'] %}
        select user_id, as_of, '{{ part }}' as part from {{ part }}
        {{ 'union all' if not loop.last }}
        {% endfor %}
    ) as parts
    group by user_id, as_of
),
changed_pairs as (
    select
        affected.*,
        spine.user_id is not null as in_spine,
        spine.signup_date,
        as_ofs.state_as_of,
        as_ofs.usage_since,
        as_ofs.payments_since,
        as_ofs.support_since
    from affected
    inner join as_ofs on affected.as_of = as_ofs.as_of
    left join spine on affected.user_id = spine.user_id and affected.as_of = spine.as_of
)
{% endif %}

select * from changed_pairs
