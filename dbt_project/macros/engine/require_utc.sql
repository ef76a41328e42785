{#-
    An interval of days over a change to summer time is an hour longer or shorter in any other time
    zone. profiles.yml asks for UTC; PGTZ in the environment goes before it on
    Postgres.
-#}
{% macro require_utc() %}{{ adapter.dispatch('require_utc')() }}{% endmacro %}

{% macro postgres__require_utc() %}
    {% set zone = run_query(
        "select current_setting('TimeZone') where extract(timezone from timestamptz '2024-01-01') <> 0"
        ~ " or extract(timezone from timestamptz '2024-07-01') <> 0"
    ) %}
    {% if zone.rows %}
        {% do exceptions.raise_compiler_error(
            "this session's TimeZone is " ~ zone.rows[0][0] ~ ', and windows are counted in UTC. Nothing was '
            ~ 'changed. ' ~ (
                'The environment says so: unset PGTZ, then run this again'
                if env_var('PGTZ', '') else
                'Ask for it as dbt_project/profiles.yml does, then run this again'
            )
        ) %}
    {% endif %}
{% endmacro %}

{% macro spark__require_utc() %}
    {% set zone = run_query('set spark.sql.session.timeZone').rows[0][1] %}
    {% if zone != 'UTC' %}
        {% do exceptions.raise_compiler_error(
            "this session's spark.sql.session.timeZone is " ~ zone ~ ', and windows are counted in UTC. Nothing was '
            ~ 'changed. Ask for it as dbt_project/profiles.yml does, then run this again'
        ) %}
    {% endif %}
{% endmacro %}
