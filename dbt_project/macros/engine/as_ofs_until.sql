{#-
    How many of the as_of's in `as_ofs` lie at or before an instant, in a query whose `from` ends in
    beside_as_ofs(). Postgres searches a list that a subquery makes; Spark has no such search, and no
    subquery inside of one: it counts in a list that is a column.
-#}
{% macro as_ofs_until(instant) -%}{{ adapter.dispatch('as_ofs_until')(instant) }}{%- endmacro %}

{% macro postgres__as_ofs_until(instant) -%}
    width_bucket({{ instant }}, (select array_agg(as_of order by as_of) from as_ofs))
{%- endmacro %}

{% macro spark__as_ofs_until(instant) -%}
    cast(size(filter(as_of_list.as_ofs, one -> one <= {{ instant }})) as bigint)
{%- endmacro %}


{% macro beside_as_ofs() -%}{{ adapter.dispatch('beside_as_ofs')() }}{%- endmacro %}

{% macro postgres__beside_as_ofs() -%}{%- endmacro %}

{% macro spark__beside_as_ofs() -%}
    cross join (select collect_list(as_of) as as_ofs from as_ofs) as as_of_list
{%- endmacro %}
