{#-
    Post-hooks of every versioned table.

    published.<table>         its published versions: what Feast reads
    published.<table>_latest  one row a (user_id, as_of), the newest published version: for analysts

    They are replaced only when the table gained a column, so a build with nothing new takes no
    lock that a reader could wait for.
-#}
{% macro create_published_views() %}
    {% if execute %}
        {% set columns = adapter.get_columns_in_relation(this) | map(attribute='name') | list %}
        {% set view = api.Relation.create(database=this.database, schema='published', identifier=this.identifier) %}
        {% set there = adapter.get_columns_in_relation(view) | map(attribute='name') | list %}
        {% if columns != there %}
create or replace view {{ view }} as
select {{ columns | join(', ') }}
from {{ this }}
where known_at <= (select max(known_at) from ledger.publications);

create or replace view {{ api.Relation.create(database=this.database, schema='published', identifier=this.identifier ~ '_latest') }} as
select {{ columns | join(', ') }}
from (
    select distinct on (user_id, as_of) *
    from {{ view }}
    order by user_id, as_of, known_at desc
) as newest
where not is_retracted;
        {% endif %}
    {% endif %}
{% endmacro %}


{#-
    Rows arrive in known_at order, so a block-range index finds a build's rows at almost no cost.
    (as_of, known_at) finds the newest as_of and what changed in it: what Feast brings online.
-#}
{% macro index_versions() %}
create index if not exists {{ this.identifier }}_known_at on {{ this }} using brin (known_at) with (pages_per_range = 16);
create index if not exists {{ this.identifier }}_as_of on {{ this }} (as_of, known_at);
{% if execute and load_result('main').response.rows_affected != 0 %}
analyze {{ this }}
{% endif %}
{% endmacro %}
