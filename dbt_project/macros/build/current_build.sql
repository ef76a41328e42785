{#-
    This invocation's build: {known_at, load_from, load_to, recompute, cadence, since, published_since}.

    known_at   stamps the versions it appends
    load_from  loads up to here were in the last publication
    load_to    loads up to here are seen; one that commits later waits for the next build
    since      the first instant of a calendar, and published_since that of the last publication

    Commands that build nothing (compile, docs, test) see the newest build.
-#}
{% macro current_build() %}
    {% set nothing = {
        'known_at': 'epoch', 'load_from': 0, 'load_to': 0, 'recompute': true, 'cadence': 'drops',
        'since': none, 'published_since': none,
    } %}
    {% if not execute %}
        {{ return(nothing) }}
    {% endif %}
    {#- `graph` is one dictionary for the whole invocation: nodes share the answer in it, since a
        query more for each of them would be a second of a build with nothing new. -#}
    {% set known = graph.get('streamflow_build') %}
    {% if known and known.invocation_id == invocation_id %}
        {{ return(known) }}
    {% endif %}
    {% set found = run_query(
        "select invocation_id, cast(known_at as " ~ type_text() ~ "), load_from, load_to, recompute, cadence,"
        ~ ' cast(since as ' ~ type_text() ~ ') from ledger.builds '
        ~ "order by (invocation_id = '" ~ invocation_id ~ "') desc, known_at desc limit 1"
    ) %}
    {% if not found.rows %}
        {{ return(nothing) }}
    {% endif %}
    {% set row = found.rows[0] %}
    {% set build = {
        'invocation_id': row[0],
        'known_at': row[1],
        'load_from': row[2] | int,
        'load_to': row[3] | int,
        'recompute': row[4],
        'cadence': row[5] or 'drops',
        'since': row[6],
    } %}
    {% do build.update({'published_since': published('since', before=build.known_at)}) %}
    {% do graph.update({'streamflow_build': build}) %}
    {{ return(build) }}
{% endmacro %}


{#- A where clause over raw rows: those in effect as this build sees them. -#}
{% macro in_effect() %}
    {%- set load_to = current_build().load_to -%}
    load_id <= {{ load_to }} and (superseded_by is null or superseded_by > {{ load_to }})
{%- endmacro %}


{#-
    A where clause that holds for every row that is joined anyway. It says which few as_of's those
    have, so that an index finds them and the history before is not read. When everything is built
    it would only cost.
-#}
{% macro among(column, as_of, of) -%}
    {% if current_build().recompute %}true{% else %}{{ column }} in (select {{ as_of }} from {{ of }}){% endif %}
{%- endmacro %}
