{#- Rows with `ordinal` from first to last, none if last is smaller; after `cross join lateral`.
    Spark counts down where last is smaller, and joins a generator only as a function with an alias. -#}
{% macro series(first, last) -%}{{ adapter.dispatch('series')(first, last) }}{%- endmacro %}

{% macro postgres__series(first, last) -%}
    (select generate_series({{ first }}, {{ last }}) as ordinal) as reached
{%- endmacro %}

{% macro spark__series(first, last) -%}
    explode(
        case when {{ first }} <= {{ last }} then sequence({{ first }}, {{ last }}) else array() end
    ) as reached (ordinal)
{%- endmacro %}
