{#-
    Takes the builders' lock, to the end of the transaction; ends what a killed build left.

    Spark has neither lock nor transaction. In a session of one's own the catalog lets one process in;
    on a cluster two builds may begin, and the earlier one is refused at its publication. What a killed
    build appended is a partition that no publication knows: it is dropped here.
-#}
{% macro take_over() %}{{ adapter.dispatch('take_over')() }}{% endmacro %}

{% macro postgres__take_over() %}
    {% do run_query("
do $$
declare
    other record;
begin
    perform pg_advisory_xact_lock(hashtext('streamflow build'));
    for other in select * from ledger.builds where status = 'running' loop
        for attempt in 1..30 loop -- a live build has a session open nearly all the time
            perform pg_stat_clear_snapshot();
            if exists (
                select from pg_stat_activity
                where datname = current_database() and application_name = 'dbt'
                    and pid <> pg_backend_pid() and state is not null
            ) then
                raise exception using message = format(
                    'the dbt build %s, started %s, is still running, or was killed and its last '
                    'query has not ended. Nothing was changed. Run this again when it is done.',
                    other.invocation_id, other.started_at);
            end if;
            perform pg_sleep(0.1);
        end loop;
        update ledger.builds set status = 'unpublished', ended_at = clock_timestamp()
        where known_at = other.known_at;
    end loop;
end $$") %}
{% endmacro %}

{% macro spark__take_over() %}
    {% set known = run_query('select cast(known_at as string) from ledger.publications').columns[0].values() | list %}
    {% for row in run_query('show tables in features').rows if not row[2] %}
        {% for part in run_query('show partitions features.' ~ row[1]).rows %}
            {% set known_at = part[0].split('=')[1] | replace('%3A', ':') %}
            {% if known_at not in known %}
                {% do log('Removing what an unpublished build left in ' ~ row[1] ~ '.', info=true) %}
                {% do run_query(
                    'alter table features.' ~ row[1] ~ " drop if exists partition (known_at = '" ~ known_at ~ "') purge"
                ) %}
            {% endif %}
        {% endfor %}
    {% endfor %}
{% endmacro %}
