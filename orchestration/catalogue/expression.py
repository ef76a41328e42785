"""The SQL of one feature: its expression, and those of the columns of its model that it names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import sqlglot
from sqlglot import exp

LONGEST = 12  # expressions


def expressions(query: str, column: str, dialect: str) -> list[tuple[str, str]]:
    """(name, SQL) of a column of a model's compiled SQL, and of what it is made from inside of the
    model, the column first. What is only passed on is left out, unless nothing else is done."""
    parsed = sqlglot.parse_one(query, read=dialect)
    ctes = {cte.alias: cte.this for cte in parsed.find_all(exp.CTE)}
    found: dict[str, str] = {}
    waiting: list[tuple[exp.Expr, str]] = [(parsed, column)]
    seen: set[tuple[int, str]] = set()
    passed_on = ""
    while waiting and len(found) < LONGEST:
        select, name = waiting.pop(0)
        if (id(select), name) in seen:
            continue
        seen.add((id(select), name))
        expression = _projection(select, name)
        if expression is not None and not isinstance(expression, exp.Column):
            found.setdefault(name, _lower(expression.sql(dialect, pretty=True)))
        elif expression is not None and not passed_on:
            passed_on = expression.sql(dialect)
        wanted = [exp.column(name)] if expression is None else list(expression.find_all(exp.Column))
        sources = dict(_sources(select, ctes))
        for part in wanted:
            of = [part.table] if part.table else list(sources)
            waiting += [(sources[alias], part.name) for alias in of if alias in sources]
    return list(found.items()) or [(column, passed_on)]


def _lower(sql: str) -> str:
    """Words in lower case, as the models have them, and what stands in quotes as it is."""
    parts = re.split(r"""('(?:[^']|'')*'|"[^"]*")""", sql)
    lower = "".join(part if i % 2 else part.lower() for i, part in enumerate(parts))
    return re.sub(r"(interval '\d+ )([A-Z]+')", lambda m: m[1] + m[2].lower(), lower)


def _projection(select: exp.Expr, name: str) -> exp.Expr | None:
    """What a select gives under a name; None: it has it, if at all, by a star."""
    for projection in select.expressions if isinstance(select, exp.Select) else ():
        if projection.alias_or_name == name and not projection.is_star:
            return projection.unalias()
    return None


def _sources(select: exp.Expr, ctes: Mapping[str, exp.Expr]) -> Iterator[tuple[str, exp.Expr]]:
    """Alias -> query of what a select reads, as far as it lies in the model."""
    if isinstance(select, exp.SetOperation):  # the versions: new ones first
        yield "", select.left
        return
    from_ = select.args.get("from_") or select.args.get("from")
    joins = select.args.get("joins") or []
    for source in ([from_.this] if from_ else []) + [join.this for join in joins]:
        if isinstance(source, exp.Table) and not source.db and source.name in ctes:
            yield source.alias_or_name, ctes[source.name]
        elif isinstance(source, exp.Subquery | exp.Lateral):
            inner = source.this.this if isinstance(source.this, exp.Subquery) else source.this
            yield source.alias_or_name, inner
