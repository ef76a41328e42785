{#- What a feature table is made from, and whether that changed since the last publication. -#}


{#-
    {table: {model or macro: checksum}}: everything that a versioned table is made from, by meaning.
    A comment or the layout is no meaning; a variable's value is.
-#}
{% macro definitions() %}
    {% set checksums = {} %}
    {% set found = {} %}
    {% for node in feature_models() %}
        {% set parts = [] %}
        {% do collect_parts(node.unique_id, parts, checksums) %}
        {% set table = {} %}
        {% for part in parts | sort %}
            {% do table.update({part: checksums[part].checksum}) %}
        {% endfor %}
        {% do found.update({node.name: table}) %}
    {% endfor %}
    {{ return(found) }}
{% endmacro %}


{#- Adds to `parts` the names of a node, or macro, and of all that it is made from. -#}
{% macro collect_parts(name, parts, checksums) %}
    {% set node = graph.nodes.get(name) %}
    {% set part = 'macro ' ~ name if not node else node.resource_type ~ ' ' ~ node.name %}
    {% if part not in parts %}
        {% do parts.append(part) %}
        {% if part not in checksums %}
            {% set code = (node.raw_code or node.checksum.checksum) if node else context[name].macro.macro_sql %}
            {% set text = code_tokens(code) | join(' ') %}
            {% set needs = node.depends_on.nodes | select('in', graph.nodes) | list if node else [] %}
            {% for source in (node.depends_on.nodes if node else []) if source in graph.sources %}
                {% set meta = graph.sources[source].config.meta or graph.sources[source].meta or {} %}
                {% set text = text ~ tojson([meta.get('grain'), meta.get('key'), meta.get('event_time')]) %}
            {% endfor %}
            {#- Of a macro that differs between engines, this one's. -#}
            {% set dispatched = [] %}
            {% for called in modules.re.findall("\\. dispatch \\( '(\\w+)'", text) %}
                {% do dispatched.append(target.type ~ '__' ~ called) %}
            {% endfor %}
            {% for called in (modules.re.findall('([A-Za-z_]\\w*) \\(', text) + dispatched) | unique %}
                {% if context.get(called) and context[called].macro is defined
                    and context[called].macro.package_name == project_name and called != name %}
                    {% do needs.append(called) %}
                {% endif %}
            {% endfor %}
            {% for variable in modules.re.findall('\\bvar \\( [\'"](\\w+)', text) | unique %}
                {% if variable not in ('cadence', 'recompute') %}
                    {% set text = text ~ ' ' ~ variable ~ ' = ' ~ var(variable, none) %}
                {% endif %}
            {% endfor %}
            {% do checksums.update({part: {'checksum': local_md5(text)[:12], 'needs': needs}}) %}
        {% endif %}
        {% for needed in checksums[part].needs %}
            {% do collect_parts(needed, parts, checksums) %}
        {% endfor %}
    {% endif %}
{% endmacro %}


{#- The words and signs of SQL with Jinja in it, without comments and layout. -#}
{% macro code_tokens(code) %}
    {% set code = modules.re.sub('([{][{%])-|-([%}][}])', '\\1\\2', code) %}
    {{ return(
        modules.re.findall(
            '(?s)[{]#.*?#[}]|--[^\\n]*|/[*].*?[*]/|(\'(?:[^\']|\'\')*\'|"[^"]*"|\\w+|[^\\s\\w])', code
        ) | select | list
    ) }}
{% endmacro %}


{#- The parts of a table's definition that are not as they were published; none if all are. -#}
{% macro changed_parts(published, defined) %}
    {% set changed = [] %}
    {% if published is not mapping %}
        {% do changed.append('as published by an earlier release') %}
    {% else %}
        {% for part in (published.keys() | list + defined.keys() | list) | unique | sort
            if published.get(part) != defined.get(part) %}
            {% do changed.append(part) %}
        {% endfor %}
    {% endif %}
    {{ return(changed) }}
{% endmacro %}


{#- The first few, models before macros. -#}
{% macro some_of(parts) %}
    {% set sorted = (parts | reject('lt', 'model') | list) + (parts | select('lt', 'model') | list) %}
    {{ return((sorted[:5] | join(', ')) ~ (' and ' ~ (sorted | length - 5) ~ ' more' if sorted | length > 5 else '')) }}
{% endmacro %}
