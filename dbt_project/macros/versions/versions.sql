{#-
    The end of every versioned model: of `final`, one row a pair (the entity's join keys and as_of),
    the rows that differ from their newest published version (null-safe, all columns), stamped with
    this build's known_at; and a retraction for each considered pair that is no longer in `final`.

    final   CTE with the join keys, as_of and every feature column of the contract, and no other
    pairs   CTE with the pairs that this build considers; a superset of those in `final`
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
{%- set keys = entity_keys(entity_of(model)) -%}
{%- set pair = keys + ['as_of'] -%}
{%- set features = model.columns | reject('in', key_columns(model)) | list -%}
{%- set stored_columns = adapter.get_columns_in_relation(this) | map(attribute='name') | list %}
{%- set stored %}
    select
        {{ columns_of('stored', pair) }},
        {%- for name in features %}
        {% if name in stored_columns %}stored.{{ name }}{% else %}cast(null as {{ type_of(model.columns[name].data_type) }}) as {{ name }}{% endif %},
        {%- endfor %}
        stored.is_retracted,
        stored.known_at
    from {{ this }} as stored
    {%- if not build.recompute %}
    inner join {{ pairs }} as considered
        on {{ same(pair, 'stored', 'considered') }}
    where {{ among('stored.as_of', 'as_of', pairs) }}
    {%- endif %}
{%- endset %}
-- The tables hold published versions only here: start_build removed the others.
newest as (
    {{ first_of_each(pair, pair + features + ['is_retracted'], 'known_at', stored) }}
),

versions as (
    select {{ columns_of(final, pair + features) }}, {{ known_at }} as known_at, false as is_retracted
    from {{ final }}
    left join newest on {{ same(pair, final, 'newest') }}
    where
        {{ has_columns(final, pair + features) }}
        and (
            newest.as_of is null or newest.is_retracted
            {%- for name in features %}
            or {{ differs(final ~ '.' ~ name, 'newest.' ~ name, model.columns[name].data_type) }}
            {%- endfor %}
        )

    union all

    select
        {{ columns_of('newest', pair) }},
        {%- for name in features %}
        cast(null as {{ type_of(model.columns[name].data_type) }}) as {{ name }},
        {%- endfor %}
        {{ known_at }} as known_at,
        true as is_retracted
    from newest
    left join {{ final }} on {{ same(pair, 'newest', final) }}
    where {{ final }}.as_of is null and not newest.is_retracted
)
{%- endif %}

select * from versions
{%- endmacro %}


{#- Null-safe, to the sign: as numbers, 1.0 and 1 in two documents are one. -#}
{% macro differs(now, before, data_type) -%}
    {%- if data_type == 'jsonb' -%}
        cast({{ now }} as {{ type_text() }}) is distinct from cast({{ before }} as {{ type_text() }})
    {%- else -%}
        {{ now }} is distinct from {{ before }}
    {%- endif -%}
{%- endmacro %}
