{#- `at_least <= column <= at_most`, either end optional; null passes. -#}
{% test in_range(model, column_name, at_least=none, at_most=none) %}
{% if at_least is none and at_most is none %}
    {{ exceptions.raise_compiler_error('in_range on ' ~ column_name ~ ' needs at_least or at_most') }}
{% endif %}
select *
from {{ model }}
where
    false
    {% if at_least is not none %} or {{ column_name }} < {{ at_least }} {% endif %}
    {% if at_most is not none %} or {{ column_name }} > {{ at_most }} {% endif %}
{% endtest %}
