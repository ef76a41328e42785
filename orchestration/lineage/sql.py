"""Which columns of which relations make each column of a query: as value, as filter, as join key.

Works on SQL as it ran, with its stars and lateral windows, by sqlglot's parser alone. Kinds are
those of OpenLineage's columnLineage facet: DIRECT is a value (as it is, transformed, aggregated);
INDIRECT decides which value it is or which rows there are (filter, join, condition and so on).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError

DIRECT, INDIRECT = "DIRECT", "INDIRECT"
STRENGTH = ("IDENTITY", "TRANSFORMATION", "AGGREGATION")  # of a value that goes through several
ROWS = ""  # in place of a column: which rows a relation has


class LineageError(ValueError):
    """The lineage of a column cannot be told; names the model and the column."""


class Use(NamedTuple):
    """How a column (or ROWS) of a relation is used: OpenLineage's type and subtype."""

    relation: str
    column: str
    type: str
    subtype: str


Uses = frozenset[Use]
NONE: Uses = frozenset()


@dataclass(frozen=True)
class QueryLineage:
    """The columns of a query in their order, each with its own uses; `rows` are the uses that
    decide which rows there are, and with them concern every column.

    own     it comes from the versions that the model itself has stored
    open    a relation whose columns nobody declares: it has any
    """

    columns: Mapping[str, Uses]
    rows: Uses = NONE
    own: bool = False
    open: str = ""

    def named(self, names: Iterable[str]) -> QueryLineage:
        """The same with other names for its first columns."""
        given = list(names)
        renamed = [*given, *list(self.columns)[len(given) :]]
        return replace(self, columns=dict(zip(renamed, self.columns.values(), strict=True)))

    def column(self, name: str) -> Uses | None:
        """The uses of a column; None: there is no such column."""
        if self.open and name not in self.columns:
            return frozenset({Use(self.open, name, DIRECT, "IDENTITY")})
        return self.columns.get(name)


def relation(name: str, columns: Iterable[str] | None) -> QueryLineage:
    """A table or view that is read; `columns` None: it may have any."""
    of = {c: frozenset({Use(name, c, DIRECT, "IDENTITY")}) for c in columns or ()}
    rows = frozenset({Use(name, ROWS, INDIRECT, "FILTER")})
    return QueryLineage(of, rows, open=name if columns is None else "")


def indirect(uses: Uses, subtype: str) -> Uses:
    """The same uses where their columns decide something; what already did stays what it was."""
    return frozenset(
        use if use.type == INDIRECT else use._replace(type=INDIRECT, subtype=subtype)
        for use in uses
    )


def through(uses: Uses, subtype: str) -> Uses:
    """The same uses after their values went through an expression."""
    return frozenset(
        use._replace(subtype=max(use.subtype, subtype, key=STRENGTH.index))
        if use.type == DIRECT
        else use
        for use in uses
    )


Relations = Callable[[exp.Table], QueryLineage]


def lineage_of(query: str, relations: Relations, dialect: str, where: str) -> QueryLineage:
    """The lineage of a query. `relations` tells the columns of what it reads, `where` its name.

    Raises:
        LineageError: it cannot be parsed, or a column in it cannot be resolved.
    """
    try:
        parsed = sqlglot.parse_one(query, read=dialect)
    except ParseError as error:
        said = str(error).partition("\n")[0]
        raise LineageError(f"{where}: its SQL cannot be parsed: {said}") from error
    return _Reader(relations, where).query(parsed, _Scope())


@dataclass(frozen=True)
class _Scope:
    """What names mean at a place: common table expressions, sources by alias, those outside."""

    ctes: Mapping[str, QueryLineage] = field(default_factory=dict)
    sources: Mapping[str, QueryLineage] = field(default_factory=dict)
    outer: _Scope | None = None
    merged: frozenset[str] = frozenset()  # columns that `using` makes one


@dataclass(frozen=True)
class _Reader:
    relations: Relations
    where: str

    def query(self, node: exp.Expr, scope: _Scope) -> QueryLineage:
        ctes = dict(scope.ctes)
        for cte in node.ctes if isinstance(node, exp.Query) else ():
            found = self.query(cte.this, replace(scope, ctes=ctes))
            ctes[cte.alias] = found.named(cte.alias_column_names)
        inner = replace(scope, ctes=ctes)
        if isinstance(node, exp.Subquery):
            return self.query(node.this, inner)
        if isinstance(node, exp.SetOperation):
            return self._set(node, inner)
        if isinstance(node, exp.Select):
            return self._select(node, inner)
        if isinstance(node, exp.Values):
            return self._values(node, inner)
        raise LineageError(f"{self.where}: {type(node).__name__} is not understood: {node.sql()}")

    def _set(self, node: exp.SetOperation, scope: _Scope) -> QueryLineage:
        left, right = (self.query(side, scope) for side in (node.left, node.right))
        pairs = zip(left.columns.items(), right.columns.values(), strict=True)
        columns = {name: ours | theirs for (name, ours), theirs in pairs}
        rows = left.rows | right.rows
        if node.args.get("distinct") or not isinstance(node, exp.Union):
            rows |= indirect(_all(columns.values()), "GROUP_BY")
        return QueryLineage(columns, rows, left.own or right.own)

    def _values(self, node: exp.Values, scope: _Scope) -> QueryLineage:
        cells: dict[str, Uses] = {}
        for row in node.expressions:
            for i, cell in enumerate(row.expressions):
                name = f"column{i + 1}"
                cells[name] = cells.get(name, NONE) | self.uses(cell, scope)
        return QueryLineage(cells)

    def _select(self, node: exp.Select, scope: _Scope) -> QueryLineage:
        sources: dict[str, QueryLineage] = {}
        deciding: Uses = NONE
        from_ = node.args.get("from_") or node.args.get("from")
        joins = node.args.get("joins") or []
        for source in ([from_.this] if from_ else []) + [join.this for join in joins]:
            before = _Scope(scope.ctes, dict(sources), scope.outer)
            sources[source.alias_or_name] = self._source(source, scope, before)
        using = {key.name for join in joins for key in join.args.get("using") or ()}
        inside = _Scope(scope.ctes, sources, scope.outer, frozenset(using))
        for join in joins:
            if on := join.args.get("on"):
                deciding |= indirect(self.uses(on, inside), "JOIN")
            for key in join.args.get("using") or ():
                deciding |= indirect(self._column(exp.column(key.name), inside), "JOIN")
        for part in ("where", "having"):
            if (clause := node.args.get(part)) is not None:
                for condition in (
                    clause.this.flatten() if isinstance(clause.this, exp.And) else [clause.this]
                ):
                    how = "JOIN" if _joins(condition) else "FILTER"
                    deciding |= indirect(self.uses(condition, inside), how)
        if node.args.get("group") is not None:
            deciding |= indirect(self._grouped(node, inside), "GROUP_BY")
        own = any(source.own for source in sources.values())
        if own:  # which versions differ from the stored ones: no part of what a value is
            deciding = NONE
        rows = deciding | _all(source.rows for source in sources.values())
        columns = dict(self._projections(node, inside))
        rows |= self._distinct_and_order(node, inside, columns)
        if _is_one_row(node):  # what is aggregated decides about the values, and not about the row
            return QueryLineage({name: uses | rows for name, uses in columns.items()}, NONE, own)
        return QueryLineage(columns, rows, own)

    def _grouped(self, node: exp.Select, inside: _Scope) -> Uses:
        """The uses of group by, where a name or number may be one of the select's own columns."""
        uses: Uses = NONE
        named = {p.alias: p.this for p in node.expressions if isinstance(p, exp.Alias)}
        for part in node.args["group"].expressions:
            if isinstance(part, exp.Literal) and part.is_int:
                part = node.expressions[int(part.name) - 1].unalias()
            elif (
                isinstance(part, exp.Column)
                and not part.table
                and part.name in named
                and not any(source.column(part.name) for source in inside.sources.values())
            ):
                part = named[part.name]
            uses |= self.uses(part, inside)
        return uses

    def _distinct_and_order(
        self, node: exp.Select, inside: _Scope, columns: Mapping[str, Uses]
    ) -> Uses:
        """`distinct` decides about rows, and so does an order of which only the first are taken."""
        uses: Uses = NONE
        distinct = node.args.get("distinct")
        if distinct is not None:
            on = distinct.args.get("on")
            of = self.uses(on, inside) if on is not None else _all(columns.values())
            uses |= indirect(of, "GROUP_BY")
        chooses = node.args.get("limit") or (distinct is not None and distinct.args.get("on"))
        if chooses and (order := node.args.get("order")) is not None:
            for part in order.expressions:
                name = part.this.name if isinstance(part.this, exp.Column) else ""
                known = columns.get(name) if not getattr(part.this, "table", "") else None
                uses |= indirect(self.uses(part, inside) if known is None else known, "SORT")
        return uses

    def _source(self, node: exp.Expr, scope: _Scope, before: _Scope) -> QueryLineage:
        """What stands in from or join. A lateral one sees those before it."""
        if isinstance(node, exp.Table) and not isinstance(node.this, exp.Func):
            known = scope.ctes.get(node.name) if not node.db else None
            found = known or self.relations(node)
        elif isinstance(node, exp.Lateral):
            lateral = _Scope(scope.ctes, {}, before)
            if isinstance(node.this, exp.Subquery | exp.Select):
                found = self.query(node.this, lateral)
            else:
                found = QueryLineage({node.alias: self.uses(node.this, before)})
        elif isinstance(node, exp.Subquery | exp.Values):
            found = self.query(node, _Scope(scope.ctes, {}, scope.outer))
        else:  # a function that gives rows: generate_series(...) as x
            function = node.this if isinstance(node, exp.Table | exp.Alias) else node
            found = QueryLineage({node.alias_or_name: self.uses(function, before)})
        return found.named(node.alias_column_names)

    def _projections(self, node: exp.Select, inside: _Scope) -> Iterator[tuple[str, Uses]]:
        for projection in node.expressions:
            if isinstance(projection, exp.Star):
                for source in inside.sources.values():
                    yield from self._star(source)
            elif isinstance(projection, exp.Column) and isinstance(projection.this, exp.Star):
                yield from self._star(self._source_named(projection.table, inside))
            else:
                yield projection.alias_or_name, self.uses(projection, inside)

    def _star(self, source: QueryLineage) -> Iterator[tuple[str, Uses]]:
        if source.open:
            raise LineageError(
                f"{self.where}: `*` of {source.open}, whose columns are not declared; name them"
            )
        yield from source.columns.items()

    # --- expressions --------------------------------------------------------------------------

    def uses(self, node: exp.Expr | None, scope: _Scope) -> Uses:
        """What an expression is made from. Of a condition inside it, what it decides by."""
        if node is None:
            return NONE
        if isinstance(node, exp.Column):
            if isinstance(node.this, exp.Star):
                return _all(self._source_named(node.table, scope).columns.values())
            return self._column(node, scope)
        if isinstance(node, exp.Alias | exp.Paren):
            return self.uses(node.this, scope)
        if isinstance(node, exp.Case | exp.If):
            return self._case(node, scope)
        if isinstance(node, exp.Filter):
            chosen = indirect(self.uses(node.expression.this, scope), "FILTER")
            return self.uses(node.this, scope) | chosen
        if isinstance(node, exp.Window):
            by = [*(node.args.get("partition_by") or ()), node.args.get("order")]
            decides = _all(self.uses(part, scope) for part in by if part is not None)
            return through(self.uses(node.this, scope), "AGGREGATION") | indirect(decides, "WINDOW")
        if isinstance(node, exp.Order):  # inside of an aggregate or a window
            return indirect(_all(self.uses(part, scope) for part in node.expressions), "SORT") | (
                self.uses(node.this, scope)
            )
        if isinstance(node, exp.Exists):
            return self._subquery(node.this, scope, of_rows=True)
        if isinstance(node, exp.Subquery | exp.Select | exp.SetOperation):
            return self._subquery(node, scope)
        parts = _all(self.uses(child, scope) for child in node.iter_expressions())
        return through(parts, "AGGREGATION" if isinstance(node, exp.AggFunc) else "TRANSFORMATION")

    def _case(self, node: exp.Case | exp.If, scope: _Scope) -> Uses:
        if isinstance(node, exp.Case):
            decides = [node.this, *(branch.this for branch in node.args["ifs"])]
            gives = [
                *(branch.args["true"] for branch in node.args["ifs"]),
                node.args.get("default"),
            ]
        else:
            decides, gives = [node.this], [node.args["true"], node.args.get("false")]
        values = _all(self.uses(part, scope) for part in gives)
        conditions = _all(self.uses(part, scope) for part in decides)
        return through(values, "TRANSFORMATION") | indirect(conditions, "CONDITIONAL")

    def _subquery(self, node: exp.Expr, scope: _Scope, *, of_rows: bool = False) -> Uses:
        found = self.query(node, _Scope(scope.ctes, {}, scope))
        values = NONE if of_rows else through(_all(found.columns.values()), "TRANSFORMATION")
        if of_rows and not found.rows:  # an aggregate always gives a row: its values are asked for
            values = indirect(_all(found.columns.values()), "FILTER")
        return values | found.rows

    def _column(self, node: exp.Column, scope: _Scope) -> Uses:
        at: _Scope | None = scope
        while at is not None:
            if node.table:
                if node.table in at.sources:
                    found = at.sources[node.table].column(node.name)
                    if found is None:
                        break
                    return found
            else:
                candidates = [
                    s.columns[node.name] for s in at.sources.values() if node.name in s.columns
                ]
                candidates = candidates or [
                    found for s in at.sources.values() if s.open and (found := s.column(node.name))
                ]
                if len(candidates) > 1 and node.name in at.merged:
                    candidates = [_all(candidates)]
                if len(candidates) > 1:
                    raise LineageError(
                        f"{self.where}: column {node.name} could be of several of "
                        f"{', '.join(at.sources)}; say of which"
                    )
                if candidates:
                    return candidates[0]
                if node.name in at.sources:  # a whole row, or the value of a function's only column
                    return _all(at.sources[node.name].columns.values())
            at = at.outer
        known = ", ".join(scope.sources) or "nothing"
        raise LineageError(f"{self.where}: column {node.sql()} is not found in {known}")

    def _source_named(self, alias: str, scope: _Scope) -> QueryLineage:
        at: _Scope | None = scope
        while at is not None:
            if alias in at.sources:
                return at.sources[alias]
            at = at.outer
        raise LineageError(f"{self.where}: {alias}.* is of nothing that it reads")


def _all(uses: Iterable[Uses]) -> Uses:
    return frozenset().union(*uses)


def _joins(condition: exp.Expr) -> bool:
    """Whether a condition is that columns of two sources are equal: as in a correlated subquery, or
    `column in (select ...)`."""
    if isinstance(condition, exp.In):
        return isinstance(condition.this, exp.Column) and condition.args.get("query") is not None
    sides = [condition.this, condition.expression] if isinstance(condition, exp.EQ) else []
    return len({side.table for side in sides if isinstance(side, exp.Column)}) == 2


def _is_one_row(node: exp.Select) -> bool:
    """Whether a select aggregates all that it reads, so that it gives one row whatever there is."""
    if node.args.get("group") or node.args.get("having"):
        return False
    return any(
        not aggregate.find_ancestor(exp.Window) and aggregate.find_ancestor(exp.Select) is node
        for projection in node.expressions
        for aggregate in projection.find_all(exp.AggFunc)
    )
