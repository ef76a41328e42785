{#- Every combination of `columns` occurs once, and none is null: no `not_null` of them beside it. -#}
{% test grain(model, columns) %}
select {{ columns | join(', ') }}, count(*) as times
from {{ model }}
group by {{ columns | join(', ') }}
having count(*) > 1
{% for column in columns %} or {{ column }} is null {% endfor %}
{% endtest %}
