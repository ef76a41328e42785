{#-
    Post-hook of every versioned table. Rows arrive in known_at order, so a block-range index finds
    a build's rows at almost no cost. (as_of, known_at) finds the newest as_of and what changed in
    it: what Feast brings online. On Spark a build's rows are a partition, which is found by its name.
-#}
{% macro index_versions() %}{{ adapter.dispatch('index_versions')() }}{% endmacro %}

{% macro postgres__index_versions() %}
create index if not exists {{ this.identifier }}_known_at on {{ this }} using brin (known_at) with (pages_per_range = 16);
create index if not exists {{ this.identifier }}_as_of on {{ this }} (as_of, known_at);
{% if execute and load_result('main').response.rows_affected != 0 %}
analyze {{ this }}
{% endif %}
{% endmacro %}

{% macro spark__index_versions() %}{% endmacro %}
