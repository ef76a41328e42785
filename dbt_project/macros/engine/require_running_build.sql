{#-
    Pre-hook of every model: see start_build. dbt goes on after an on-run-start hook has failed, and a
    refused build must not replace the staging relations of the one that runs. (dbt's flag for that,
    skip_nodes_if_on_run_start_fails, fails on exposures.)

    On Postgres it is in the transaction that builds the model. Spark has none: there a build that was
    taken over is refused at its publication. And there the session has to be asked whether it still
    fails where it should, see start_engine.
-#}
{% macro require_running_build() %}{{ adapter.dispatch('require_running_build')() }}{% endmacro %}

{% macro postgres__require_running_build() %}
    {% if execute %}
do $$
begin
    perform from ledger.builds
    where invocation_id = '{{ invocation_id }}' and status = 'running' for share;
    if not found then
        raise exception 'this build was refused at its start, or taken over by a later one';
    end if;
end $$
    {% endif %}
{% endmacro %}

{% macro spark__require_running_build() %}
    {% if execute %}
        {% if graph.get('streamflow_started') != invocation_id %}
            {% do exceptions.raise_compiler_error('this build was refused at its start') %}
        {% endif %}
        {% do require_ansi() %}
    {% endif %}
{% endmacro %}


{% macro require_ansi() %}
    {% if run_query('set spark.sql.ansi.enabled').rows[0][1] != 'true' %}
        {% do exceptions.raise_compiler_error(
            'spark.sql.ansi.enabled is not true in this session, in which a number that overflows and a text that is '
            ~ 'no number would become wrong values. Set it there, then: dbt build --target spark'
        ) %}
    {% endif %}
{% endmacro %}
