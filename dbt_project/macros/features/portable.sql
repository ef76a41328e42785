{#- What differs between engines, in one place (docs/decisions/0011-portable-sql.md). -#}
{% macro type_instant() %}{{ return('timestamp with time zone') }}{% endmacro %}

{% macro instant_literal(text) -%}
    cast('{{ text }}' as {{ type_instant() }})
{%- endmacro %}

{% macro type_double() %}{{ return('double precision') }}{% endmacro %}

{#- The UTC date of an instant. -#}
{% macro utc_date(instant) -%}
    cast({{ instant }} at time zone 'UTC' as date)
{%- endmacro %}

{#- The instant of a date or of a time without zone, which are UTC here. -#}
{% macro utc_instant(time) -%}
    (cast({{ time }} as timestamp) at time zone 'UTC')
{%- endmacro %}

{#- Whole days between two instants, rounded down. -#}
{% macro whole_days(since, until) -%}
    cast(floor(extract(epoch from {{ until }} - {{ since }}) / 86400) as bigint)
{%- endmacro %}

{#- Microseconds between two instants, exact. -#}
{% macro microseconds(since, until) -%}
    cast(extract(epoch from {{ until }} - {{ since }}) * 1000000 as bigint)
{%- endmacro %}

{#- One division of two exact integers, at the very end: equal to the bit on every engine. -#}
{% macro ratio(numerator, denominator) -%}
    cast({{ numerator }} as {{ type_double() }}) / nullif(cast({{ denominator }} as {{ type_double() }}), 0)
{%- endmacro %}

{#- How many of the as_of's in `as_ofs` lie at or before an instant. -#}
{% macro as_ofs_until(instant) -%}
    width_bucket({{ instant }}, (select array_agg(as_of order by as_of) from as_ofs))
{%- endmacro %}

{#- Rows with `ordinal` from first to last, none if last is smaller; to be joined laterally. -#}
{% macro series(first, last) -%}
    (select generate_series({{ first }}, {{ last }}) as ordinal)
{%- endmacro %}

{#- Up to `most` values in a list, those with the largest `by` first; null where there is none. -#}
{% macro newest(value, most, by, condition) -%}
    (array_agg({{ value }} order by {{ by.split(', ') | join(' desc, ') }} desc) filter (where {{ condition }}))[1:{{ most }}]
{%- endmacro %}

{#- A list of no text. -#}
{% macro no_texts() -%}
    cast(array[] as text[])
{%- endmacro %}
