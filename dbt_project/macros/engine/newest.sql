{#- Up to `most` values in a list, those with the largest `by` first; null where there is none. Spark
    sorts a list after it is made, and compares texts by their bytes without being asked. -#}
{% macro newest(value, most, by, condition) -%}{{ adapter.dispatch('newest')(value, most, by, condition) }}{%- endmacro %}

{% macro postgres__newest(value, most, by, condition) -%}
    (array_agg({{ value }} order by {{ by.split(', ') | join(' desc, ') }} desc) filter (where {{ condition }}))[1:{{ most }}]
{%- endmacro %}

{% macro spark__newest(value, most, by, condition) -%}
    {%- set by = by | replace(' collate "C"', '') %}
    {%- set found -%}
        collect_list(struct({{ by }}, {{ value }} as newest_value)) filter (where {{ condition }})
    {%- endset %}
    nullif(slice(transform(sort_array({{ found }}, false), one -> one.newest_value), 1, {{ most }}), {{ no_texts() }})
{%- endmacro %}
