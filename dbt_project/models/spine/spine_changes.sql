{{ config(indexes=[{'columns': ['user_id', 'as_of'], 'unique': true}]) }}
{% set build = current_build() %}
{% set all_changes = ref('stg_changes') %} {#- named here because dbt reads one branch only -#}
{% set all_users = ref('stg_users') %}
{% set tables = ['user', 'subscription', 'usage', 'payment', 'support'] %}
{#- In order of the users: whatever is looked up and appended for them then lies close together. -#}
with

as_ofs as (
    select * from {{ ref('spine_as_of') }}
),

{% if build.recompute %}
spine as (
    select * from {{ ref('spine_user') }}
),

changed_pairs as (
    select
        spine.user_id,
        spine.as_of,
        {%- for table in tables %}
        true as {{ table }}_features,
        {%- endfor %}
        true as in_spine,
        spine.signup_date,
        {%- for name in captured() %}
        as_ofs.{{ name }}_since,
        {%- endfor %}
        as_ofs.state_as_of
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
-- An event between two as_of's is in the windows of those after it, up to the last that reaches it.
{{ events }}_reach as (
    select
        user_id,
        {{ as_ofs_until('event_at') }} + 1 as first_ordinal,
        max({{ as_ofs_until("event_at + interval '" ~ longest_window(events) ~ " days'") }}) as last_ordinal
    from changes
    where table_name = '{{ events }}'
    group by 1, 2
),

{{ events }} as (
    select reach.user_id, as_ofs.as_of
    from {{ events }}_reach as reach
    cross join lateral {{ series('reach.first_ordinal', 'reach.last_ordinal') }} as reached
    inner join as_ofs on reached.ordinal = as_ofs.ordinal

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
        {{ listed('as_ofs') }} or {{ signed_up_since('as_ofs') }} as in_spine,
        coalesce(users.signup_date, next_users.signup_date) as signup_date,
        {%- for name in captured() %}
        as_ofs.{{ name }}_since,
        {%- endfor %}
        as_ofs.state_as_of
    from affected
    inner join as_ofs on affected.as_of = as_ofs.as_of
    left join {{ all_users }} as users
        on affected.user_id = users.user_id and as_ofs.state_as_of = users.as_of
    left join {{ all_users }} as next_users
        on affected.user_id = next_users.user_id and as_ofs.next_state_as_of = next_users.as_of
)
{% endif %}

select * from changed_pairs
order by user_id, as_of
