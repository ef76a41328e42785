{#- Post-hook of intermediate models: the planner's statistics. Spark's optimizer counts as it goes. -#}
{% macro analyzed() -%}{{ adapter.dispatch('analyzed')() }}{%- endmacro %}

{% macro postgres__analyzed() -%}
    {% if model.config.materialized == 'table' %}analyze {{ this }}{% endif %}
{%- endmacro %}

{% macro spark__analyzed() -%}

{%- endmacro %}
