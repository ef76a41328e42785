{#-
    {'stored': {table: {column: type}}, 'published': ...}, see contracts(). Spark's catalog names its
    own types, of which one may stand for two of the contract's (text and uuid): the defined one, where
    it fits. What is published is what the last publication says.
-#}
{% macro columns_there(defined) %}{{ return(adapter.dispatch('columns_there')(defined)) }}{% endmacro %}

{% macro postgres__columns_there(defined) %}
    {% set found = {'stored': {}, 'published': {}} %}
    {% for row in run_query(
        "select nspname, relname, attname,"
        ~ " format_type(atttypid, case when atttypid = 'numeric'::regtype then atttypmod end)"
        ~ " from pg_attribute join pg_class on pg_class.oid = attrelid"
        ~ " join pg_namespace on pg_namespace.oid = relnamespace"
        ~ " where nspname in ('features', 'published') and relkind in ('r', 'p', 'v')"
        ~ " and attnum > 0 and not attisdropped order by relname, attnum"
    ) %}
        {% set tables = found[{'features': 'stored', 'published': 'published'}[row[0]]] %}
        {% do tables.setdefault(row[1], {}).update({row[2]: 'text' if row[3] == 'character varying' else row[3]}) %}
    {% endfor %}
    {{ return(found) }}
{% endmacro %}

{% macro spark__columns_there(defined) %}
    {% set found = {'stored': {}, 'published': {}} %}
    {% set names = {
        'string': 'text', 'double': 'double precision', 'float': 'real', 'int': 'integer', 'binary': 'bytea',
        'timestamp': 'timestamp with time zone', 'array<string>': 'text[]', 'array<bigint>': 'bigint[]',
        'array<double>': 'double precision[]', 'array<boolean>': 'boolean[]',
    } %}
    {% for row in run_query("show tables in features").rows if not row[2] %}
        {% set columns = {} %}
        {% for column in adapter.get_columns_in_relation(api.Relation.create(schema='features', identifier=row[1])) %}
            {% set asked = defined.get(row[1], {}).get(column.name) %}
            {% set type = names.get(column.dtype, column.dtype | replace('decimal', 'numeric')) %}
            {% do columns.update({column.name: asked if asked and type_of(asked) == column.dtype else type}) %}
        {% endfor %}
        {% do found.stored.update({row[1]: columns}) %}
    {% endfor %}
    {% for node in fromjson(published('manifest') or '{"nodes": {}}').nodes.values() if node.get('columns') %}
        {% set columns = {} %}
        {% for column in node.columns.values() %}
            {% do columns.update({column.name: canonical_type(column.data_type)}) %}
        {% endfor %}
        {% do found.published.update({node.name: columns}) %}
    {% endfor %}
    {{ return(found) }}
{% endmacro %}
