with

pairs as (
    {{ delivered_pairs(entity='user', table='labels') }}
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
