"""What a raw table is: its grain, its key, its columns; and how that reads as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data.contract.types import DATE, INSTANT, Type


@dataclass(frozen=True)
class Column:
    """One column of a file."""

    name: str
    type: Type
    meaning: str
    unit: str = ""
    nullable: bool = False  # an empty cell means NULL: unknown or not applicable
    optional: bool = False  # an add-on: the file may lack the column
    not_before: str = ""  # another column of the row that must not lie after this one
    entity: str = ""  # of which it is a join key
    values: tuple[str, ...] = ()  # the only ones allowed; empty: any
    is_id: bool = False  # names a row or one of an entity: never a word for "none"

    @property
    def may_be_absent(self) -> bool:
        """Whether a file may lack the column: then all its values are unknown."""
        return self.nullable or self.optional

    @property
    def expected(self) -> str:
        """What a cell must hold, with its unit."""
        unit = "" if self.type in (DATE, INSTANT) else self.unit
        return self.type.expected + (f" ({unit})" if unit else "")


@dataclass(frozen=True)
class Table:
    """One file of a drop and the raw table that keeps it."""

    name: str
    grain: str  # state, aggregate or event
    meaning: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]  # the columns that name a row; of states and aggregates, in a drop
    event_time: str | None = None  # the column that says when it happened; events alone
    since: str | None = None  # the date from which on there is one of the entity; states alone

    @property
    def file(self) -> str:
        """The file's name inside a drop."""
        return f"{self.name}.csv"

    @property
    def is_event(self) -> bool:
        """Whether a row may be stated by several drops, the newest of which wins."""
        return self.grain == "event"

    @property
    def row(self) -> str:
        """What one row is about."""
        if self.is_event:
            return f"one row a {' and '.join(self.key)}"
        return f"one row a {' and '.join(self.column(n).entity or n for n in self.key)}"

    def column(self, name: str) -> Column:
        """The column called `name`; KeyError when there is none."""
        return {column.name: column for column in self.columns}[name]


def listers(tables: Sequence[Table]) -> dict[str, Table]:
    """Entity -> the table that lists who there is: the first state keyed by that entity alone.

    What another column says of the entity has to be known there.
    """
    found: dict[str, Table] = {}
    for table in tables:
        if table.grain == "state" and len(table.key) == 1:
            found.setdefault(table.column(table.key[0]).entity, table)
    found.pop("", None)
    return found


def markdown(tables: Sequence[Table]) -> str:
    """The contract as markdown, one table of columns for each file."""
    parts = []
    for table in tables:
        grain = f"{table.grain.capitalize()}: {table.row}."
        parts.append(f"### {table.file}\n\n{table.meaning} {grain}\n")
        parts.append("| column | type | unit | may be empty | meaning |\n|---|---|---|---|---|")
        for column in table.columns:
            empty = "yes" if column.nullable else "no"
            if column.optional:
                empty = "yes, or absent"
            kind = column.type.expected if column.values else column.type.sql
            parts.append(f"| {column.name} | {kind} | {column.unit} | {empty} | {column.meaning} |")
        parts.append("")
    return "\n".join(parts)


def dbt_docs(tables: Sequence[Table]) -> str:
    """The meanings as dbt's doc blocks, `<table>__<column>`, for models to refer to."""
    parts = ["<!-- Written by `python -m data contract --dbt` from _sources.yml. -->"]
    for table in tables:
        for column in table.columns:
            name = f"{table.name}__{column.name}"
            parts.append(f"{{% docs {name} %}}{column.meaning}{{% enddocs %}}")
    return "\n\n".join(parts) + "\n"
