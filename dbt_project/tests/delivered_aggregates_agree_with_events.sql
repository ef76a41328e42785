-- Where a drop delivers an aggregate and events cover its window as well, the two should say the
-- same; if not, one of them lost rows. A warning: late rows arrive after the aggregate was made.
{{ config(severity='warn') }}
{% set build = current_build() %}
{% set captures = {'usage': ['device_id', 'skips', 'rebuffer_events'], 'payments': [], 'support': []} %}
with

pairs as (
    select * from {{ ref('changes_user') }} where in_spine
),

captured as (
    select
        as_of
        {%- for table, columns in captures.items() %}{% for column in [''] + columns %},
        max(captured_since) filter (
            where table_name = '{{ table }}' and column_name = '{{ column }}'
        ) as {{ since_column(table, column) }}
        {%- endfor %}{% endfor %}
    from {{ ref('int_coverage') }}
    group by as_of
),

pairs_of_delivered as (
    {% for features, delivered, columns in [
        ('usage_features', 'stg_usage_agg', {
            'watch_hours_30d': ('usage_since', 30),
            'avg_session_mins_7d': ('usage_since', 7),
            'unique_devices_30d': ('usage_device_id_since', 30),
            'skips_7d': ('usage_skips_since', 7),
            'rebuffer_events_7d': ('usage_rebuffer_events_since', 7),
        }),
        ('payment_features', 'stg_payments_agg', {'failed_payments_90d': ('payments_since', 90)}),
        ('support_features', 'stg_support_agg', {
            'support_tickets_90d': ('support_since', 90),
            'ticket_avg_resolution_hrs_90d': ('support_since', 90),
        }),
    ] %}
    {% for column, (since, days) in columns.items() %}
    select
        '{{ column }}' as feature,
        pairs.user_id,
        pairs.as_of,
        cast(versions.{{ column }} as {{ type_double() }}) as from_events,
        cast(delivered.{{ column }} as {{ type_double() }}) as delivered
    from pairs
    inner join {{ ref(delivered) }} as delivered
        on pairs.user_id = delivered.user_id and pairs.as_of = delivered.as_of
    inner join {{ ref(features) }} as versions
        on pairs.user_id = versions.user_id and pairs.as_of = versions.as_of
        and versions.known_at = cast('{{ build.known_at }}' as {{ type_instant() }})
    left join captured on pairs.as_of = captured.as_of
    where coalesce(captured.{{ since }} <= pairs.as_of - interval '{{ days }} days', true)
    {{ 'union all' if not loop.last }}
    {% endfor %}
    {{ 'union all' if not loop.last }}
    {% endfor %}
)

select *
from pairs_of_delivered
where
    from_events is distinct from delivered
    and coalesce(abs(from_events - delivered) > 0.000001 * greatest(1, abs(delivered)), true)
