{#- Of the rows of `candidates`, a select, the newest of each `keys`: its `names`. Spark has no
    `distinct on`. -#}
{% macro first_of_each(keys, names, newest_by, candidates) -%}{{ adapter.dispatch('first_of_each')(keys, names, newest_by, candidates) }}{%- endmacro %}

{% macro postgres__first_of_each(keys, names, newest_by, candidates) -%}
    select distinct on ({{ keys | join(', ') }}) {{ names | join(', ') }}
    from ({{ candidates }}) as candidates
    order by {{ keys | join(', ') }}, {{ newest_by }} desc
{%- endmacro %}

{% macro spark__first_of_each(keys, names, newest_by, candidates) -%}
    select {{ names | join(', ') }}
    from (
        select *, row_number() over (partition by {{ keys | join(', ') }} order by {{ newest_by }} desc) as place
        from ({{ candidates }}) as candidates
    ) as placed
    where place = 1
{%- endmacro %}
