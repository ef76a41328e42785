{#-
    The as_of's as seen with the loads up to `horizon`: those of the drops, or of a calendar up to the
    newest of them. A drop counts that has a state of which a spine is made; where there is none at
    all, any drop does.
-#}
{% macro as_ofs(loads, horizon) %}
    {%- set cadence = current_build().cadence -%}
    {%- set drops %}
        select distinct as_of
        from {{ loads }}
        where
            load_id <= {{ horizon }}
            and (
                table_name in ({{ spine_states() }})
                or not exists (
                    select 1 from {{ loads }}
                    where load_id <= {{ horizon }} and table_name in ({{ spine_states() }})
                )
            )
    {%- endset -%}
    {%- if cadence == 'drops' -%}
    {{ drops }}
    {%- else -%}
    select {{ utc_instant('instant') }} as as_of
    from (
        select generate_series(
            date_trunc('{{ cadence }}', min(as_of) at time zone 'UTC'),
            max(as_of) at time zone 'UTC',
            interval '1 {{ cadence }}'
        ) as instant, min(as_of) as first_as_of
        from ({{ drops }}) as drops
    ) as instants
    where {{ utc_instant('instant') }} >= first_as_of
    {%- endif -%}
{% endmacro %}


{#- The raw tables of state that spines are made from, as a list in SQL. -#}
{% macro spine_states() -%}
    {%- set tables = [] -%}
    {%- for entity in entities().values() if 'state' in entity.made_from -%}
        {%- do tables.append(literal(entity.made_from.state)) -%}
    {%- endfor -%}
    {{ tables | unique | join(', ') or "''" }}
{%- endmacro %}


{#- The raw tables of state of which a drop is looked up for each as_of. -#}
{% macro looked_up_states() -%}
    {%- set tables = [spine_states()] -%}
    {%- for view in feature_models() -%}
        {%- for table in view.config.meta.get('made_from', {}).get('latest', []) -%}
            {%- do tables.append(literal(table)) -%}
        {%- endfor -%}
    {%- endfor -%}
    {{ tables | unique | join(', ') }}
{%- endmacro %}


{#- [(table, column or '')] whose capture some feature model depends on. -#}
{% macro looked_up_captures() %}
    {% set found = [] %}
    {% for view in feature_models() %}
        {% for of in view.config.meta.get('made_from', {}).get('events', []) %}
            {% for column in [''] + of.may_lack if (of.table, column) not in found %}
                {% do found.append((of.table, column)) %}
            {% endfor %}
        {% endfor %}
    {% endfor %}
    {{ return(found) }}
{% endmacro %}
