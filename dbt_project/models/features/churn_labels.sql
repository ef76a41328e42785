{% set build = current_build() %}
{% set changes = ref('stg_changes') %} {#- named here because dbt reads one branch only -#}
with

pairs as (
    {% if build.recompute %}
    select
        user_id,
        as_of
    from {{ ref('stg_labels') }}
    {% else %}
    select distinct user_id, as_of from {{ changes }} where table_name = 'labels'
    {% endif %}
),

labels as (
    select * from {{ ref('stg_labels') }}
),

final as (
    select
        pairs.user_id,
        pairs.as_of,
        labels.churn_label
    from pairs
    inner join labels on pairs.user_id = labels.user_id and pairs.as_of = labels.as_of
),

{{ versions('final', 'pairs') }}
