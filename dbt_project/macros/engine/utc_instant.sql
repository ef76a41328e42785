{#- The instant of a date or of a time without zone, which are UTC here; as for utc_date. -#}
{% macro utc_instant(time) -%}{{ adapter.dispatch('utc_instant')(time) }}{%- endmacro %}

{% macro postgres__utc_instant(time) -%}
    (cast({{ time }} as timestamp) at time zone 'UTC')
{%- endmacro %}

{% macro spark__utc_instant(time) -%}
    cast({{ time }} as timestamp)
{%- endmacro %}
