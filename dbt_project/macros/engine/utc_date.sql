{#- The UTC date of an instant. On Spark the session is in UTC (require_utc), which a cast goes by. -#}
{% macro utc_date(instant) -%}{{ adapter.dispatch('utc_date')(instant) }}{%- endmacro %}

{% macro postgres__utc_date(instant) -%}
    cast({{ instant }} at time zone 'UTC' as date)
{%- endmacro %}

{% macro spark__utc_date(instant) -%}
    cast({{ instant }} as date)
{%- endmacro %}
