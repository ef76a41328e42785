{#- The instants from one on, a cadence apart, as the only column of a select list. Spark's sequence
    refuses a last before the first. -#}
{% macro calendar_instants(cadence, first, last) -%}{{ adapter.dispatch('calendar_instants')(cadence, first, last) }}{%- endmacro %}

{% macro postgres__calendar_instants(cadence, first, last) -%}
    generate_series(
        date_trunc('{{ cadence }}', {{ first }} at time zone 'UTC'),
        {{ last }} at time zone 'UTC',
        interval '1 {{ cadence }}'
    )
{%- endmacro %}

{% macro spark__calendar_instants(cadence, first, last) -%}
    explode(
        case
            when date_trunc('{{ cadence }}', {{ first }}) <= {{ last }}
                then sequence(date_trunc('{{ cadence }}', {{ first }}), {{ last }}, interval 1 {{ cadence }})
        end
    )
{%- endmacro %}
