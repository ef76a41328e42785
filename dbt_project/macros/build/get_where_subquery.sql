{#-
    What a data test looks at. Inside `dbt build`: the rows that are new, because older ones passed
    when they were published (versions of this build; raw rows loaded since). In `dbt test`, and
    with `--vars 'recompute: true'`: everything. Retracted versions hold no values to test.
-#}
{% macro get_where_subquery(relation) -%}
    {%- set conditions = [] -%}
    {%- if config.get('where') -%}
        {%- do conditions.append(config.get('where')) -%}
    {%- endif -%}
    {%- if execute -%}
        {%- set build = current_build() -%}
        {%- set only_new = flags.WHICH == 'build' and not build.recompute -%}
        {%- if relation.schema == 'features' -%}
            {%- do conditions.append('not is_retracted') -%}
            {%- if only_new -%}
                {%- do conditions.append("known_at = cast('" ~ build.known_at ~ "' as " ~ type_instant() ~ ")") -%}
            {%- endif -%}
        {%- elif only_new and has_load_id(relation) -%}
            {%- do conditions.append('load_id > ' ~ build.load_from) -%}
        {%- endif -%}
    {%- endif -%}
    {%- if conditions -%}
        (select * from {{ relation }} where {{ conditions | join(' and ') }}) as tested
    {%- else -%}
        {{ relation }}
    {%- endif -%}
{%- endmacro %}


{#- Whether a model has one row a delivered row, which carries its load_id. -#}
{% macro has_load_id(relation) %}
    {% set node = graph.nodes.get('model.' ~ project_name ~ '.' ~ relation.identifier) %}
    {{ return(node is not none and 'load_id' in node.columns) }}
{% endmacro %}
