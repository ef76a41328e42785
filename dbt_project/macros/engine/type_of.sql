{#- A contract's type, as Postgres names it, in the engine's words. Spark keeps a uuid as its text. -#}
{% macro type_of(data_type) %}{{ return(adapter.dispatch('type_of')(data_type)) }}{% endmacro %}

{% macro postgres__type_of(data_type) %}{{ return(data_type) }}{% endmacro %}

{% macro spark__type_of(data_type) %}
    {% set name = canonical_type(data_type) %}
    {% if name.endswith('[]') %}
        {{ return('array<' ~ type_of(name[:-2]) ~ '>') }}
    {% endif %}
    {{ return({
        'text': 'string', 'uuid': 'string', 'double precision': 'double', 'real': 'float', 'integer': 'int',
        'bytea': 'binary', 'timestamp with time zone': 'timestamp',
    }.get(name, name | replace('numeric', 'decimal'))) }}
{% endmacro %}


{#- A type by Postgres's own name of it, where no Postgres can be asked. -#}
{% macro canonical_type(data_type) %}
    {% set name = modules.re.sub('\\s+', ' ', (data_type or '') | trim | lower) %}
    {% set size = modules.re.match('^(?:numeric|decimal) ?[(] ?([0-9]+) ?(?:, ?([0-9]+) ?)?[)]$', name) %}
    {% if size %}
        {{ return('numeric(' ~ size.group(1) ~ ',' ~ (size.group(2) or 0) ~ ')') }}
    {% endif %}
    {{ return({
        'timestamptz': 'timestamp with time zone', 'varchar': 'text', 'character varying': 'text', 'string': 'text',
        'int8': 'bigint', 'int4': 'integer', 'int': 'integer', 'float8': 'double precision',
        'double': 'double precision', 'float4': 'real', 'bool': 'boolean', 'timestamp': 'timestamp without time zone',
    }.get(name, name)) }}
{% endmacro %}
