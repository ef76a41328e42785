{#- A ticket resolved before it was opened would give a negative resolution time. -#}
{% test resolved_after_opened(model) %}
select * from {{ model }} where resolved_at < opened_at
{% endtest %}
