{#-
    The newest versions hold exactly the spine's pairs: a missing one would vanish from training
    sets, one too many would be served. In `dbt build` the pairs that this build computed are
    looked at, in `dbt test` all of them.
-#}
{% test covers_the_spine(model) %}
{{ uncovered_pairs() }}
{% endtest %}
