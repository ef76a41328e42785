{#- Of instants, the one up to which a thousandth of them lie. Spark sorts numbers alone there. -#}
{% macro first_thousandth(instant) -%}{{ adapter.dispatch('first_thousandth')(instant) }}{%- endmacro %}

{% macro postgres__first_thousandth(instant) -%}
    percentile_disc(0.001) within group (order by {{ instant }})
{%- endmacro %}

{% macro spark__first_thousandth(instant) -%}
    timestamp_micros(cast(percentile_disc(0.001) within group (order by unix_micros({{ instant }})) as bigint))
{%- endmacro %}
