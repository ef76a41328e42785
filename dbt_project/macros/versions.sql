{#-
    The end of every versioned model: of `final`, one row a (user_id, as_of), the rows that differ
    from their newest published version (null-safe, all columns), stamped with this build's
    known_at; and a retraction for each considered pair that is no longer in `final`.

    final   CTE with user_id, as_of and every feature column of the contract
    pairs   CTE with the (user_id, as_of) this build considers; a superset of those in `final`
-#}
{% macro versions(final, pairs) %}
{%- set build = current_build() -%}
{%- set known_at = "cast('" ~ build.known_at ~ "' as " ~ type_instant() ~ ")" -%}
{%- if not this or not is_incremental() %} {#- a unit test has no `this` #}
versions as (
    select {{ final }}.*, {{ known_at }} as known_at, false as is_retracted
    from {{ final }}
)
{%- else %}
{%- set features = [] -%}
{%- for name in model.columns if name not in ('user_id', 'as_of', 'known_at', 'is_retracted') -%}
    {%- do features.append(name) -%}
{%- endfor %}
{%- set stored_columns = adapter.get_columns_in_relation(this) | map(attribute='name') | list %}
-- The tables hold published versions only here: start_build removed the others.
newest as (
    select distinct on (stored.user_id, stored.as_of)
        stored.user_id,
        stored.as_of,
        {%- for name in features %}
        {% if name in stored_columns %}stored.{{ name }}{% else %}cast(null as {{ model.columns[name].data_type }}) as {{ name }}{% endif %},
        {%- endfor %}
        stored.is_retracted
    from {{ this }} as stored
    {%- if not build.recompute %}
    inner join {{ pairs }} as considered
        on stored.user_id = considered.user_id and stored.as_of = considered.as_of
    where {{ among('stored.as_of', 'as_of', pairs) }}
    {%- endif %}
    order by stored.user_id, stored.as_of, stored.known_at desc
),

versions as (
    select {{ final }}.*, {{ known_at }} as known_at, false as is_retracted
    from {{ final }}
    left join newest on {{ final }}.user_id = newest.user_id and {{ final }}.as_of = newest.as_of
    where
        newest.user_id is null or newest.is_retracted
        {%- for name in features %}
        or {{ final }}.{{ name }} is distinct from newest.{{ name }}
        {%- endfor %}

    union all

    select
        newest.user_id,
        newest.as_of,
        {%- for name in features %}
        cast(null as {{ model.columns[name].data_type }}) as {{ name }},
        {%- endfor %}
        {{ known_at }} as known_at,
        true as is_retracted
    from newest
    left join {{ final }} on newest.user_id = {{ final }}.user_id and newest.as_of = {{ final }}.as_of
    where {{ final }}.user_id is null and not newest.is_retracted
)
{%- endif %}

select * from versions
{%- endmacro %}
