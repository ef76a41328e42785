"""How far each feature moved between two snapshots: figures for the report and the asset checks.

A feature *moved* when both hold:

- at least 3 in 100 users would have to change value to turn one distribution into the other
  (`distance`: Kolmogorov-Smirnov's D for numbers, total variation for categories);
- that is no accident: the p-value of the two-sample Kolmogorov-Smirnov test (numbers) or of the
  chi-square test of homogeneity (categories), after Holm's correction over all features, < 0.01.

An instant or a date is compared by its age, in days before as_of.

With many users everything is significant, and with few everything is far: each alone would cry
wolf. Null counts as a value of its own, below all numbers, so that a column that empties moves.
The same users are in both snapshots and KS takes them for independent, and numbers with many ties
for continuous; both make its p-value too large, never too small. PSI (deciles of the month before)
is shown beside it in its usual bands, and how many users' own values changed: a feature of which
nobody's value changed cannot have moved.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np
import psycopg
from psycopg import sql

from streamflow_feast.dbt.manifest import Column, FeatureTable
from streamflow_feast.dbt.types import without_digits

ALPHA = 0.01  # of all features together
LEAST_DISTANCE = 0.03  # share of users
PSI_BANDS = ((0.1, "slight"), (0.25, "moderate"), (math.inf, "large"))
NUMBERS = ("bigint", "integer", "double precision", "real", "numeric")
INSTANTS = ("date", "timestamp with time zone")
BARS = 14  # of a plot


@dataclass(frozen=True)
class Drift:
    """One feature at two snapshots. Shares and `distance` are 0 to 1; `changed` counts users of
    `both` snapshots whose value differs; `bars` are (label, share before, share now)."""

    table: str
    feature: str
    unit: str
    kind: str  # number | category
    rows_before: int
    rows: int
    nulls_before: int
    nulls: int
    mean_before: float | None
    mean: float | None
    both: int
    changed: int
    distance: float
    psi: float
    p_value: float
    moved: bool
    bars: tuple[tuple[str, float, float], ...] = field(default=(), repr=False)

    @property
    def test(self) -> str:
        return "Kolmogorov-Smirnov" if self.kind == "number" else "chi-square"

    @property
    def psi_band(self) -> str:
        return next(name for limit, name in PSI_BANDS if self.psi < limit)


def drift(
    connection: psycopg.Connection,
    tables: Sequence[FeatureTable],
    before: datetime,
    now: datetime,
) -> list[Drift]:
    """Every feature of `tables` at two as_of's, by newest published versions."""
    found = [
        _feature(connection, table, column, before, now, *changes[column.name])
        for table in tables
        for changes in [_changes(connection, table, before, now)]
        for column in table.columns
    ]
    adjusted = holm([result.p_value for result in found])
    return [
        replace(
            result,
            p_value=p_value,
            moved=bool(result.changed or result.rows != result.rows_before)
            and result.distance >= LEAST_DISTANCE
            and p_value < ALPHA,
        )
        for result, p_value in zip(found, adjusted, strict=True)
    ]


def _changes(
    connection: psycopg.Connection, table: FeatureTable, before: datetime, now: datetime
) -> dict[str, tuple[int, int]]:
    """Feature -> (users in both snapshots, those of them whose value differs)."""
    differing = [
        sql.SQL("count(*) filter (where a.{0} is distinct from b.{0})").format(
            sql.Identifier(column.name)
        )
        for column in table.columns
    ]
    row = connection.execute(
        sql.SQL(
            "select count(*), {} from {relation} a join {relation} b using ({keys})"
            " where a.as_of = %s and b.as_of = %s"
        ).format(
            sql.SQL(", ").join(differing),
            relation=_latest(table),
            keys=sql.SQL(", ").join(map(sql.Identifier, table.entity.keys)),
        ),
        [before, now],
    ).fetchone()
    assert row is not None
    return {
        column.name: (row[0], changed)
        for column, changed in zip(table.columns, row[1:], strict=True)
    }


def as_ofs(connection: psycopg.Connection, tables: Sequence[FeatureTable]) -> list[datetime]:
    """Every as_of of those tables that are published, ascending."""
    each = [
        sql.SQL("select as_of from {}").format(_latest(table))
        for table in tables
        if connection.execute(
            "select to_regclass(format('published.%%I', %s::text))", [f"{table.name}_latest"]
        ).fetchone()
        != (None,)
    ]
    if not each:
        return []
    found = connection.execute(sql.SQL("{} order by 1").format(sql.SQL(" union ").join(each)))
    return [as_of for (as_of,) in found]


def _latest(table: FeatureTable) -> sql.Identifier:
    return sql.Identifier("published", f"{table.name}_latest")


def _value(column: Column) -> sql.Composed:
    """What is compared of a feature: itself, or the age of an instant in days."""
    name = sql.Identifier(column.name)
    if column.type in INSTANTS:
        return sql.SQL(
            "(extract(epoch from as_of) - extract(epoch from {}))::double precision / 86400"
        ).format(name)
    return sql.SQL("{}").format(name)


def _feature(
    connection: psycopg.Connection,
    table: FeatureTable,
    column: Column,
    before: datetime,
    now: datetime,
    both: int,
    changed: int,
) -> Drift:
    counted = connection.execute(
        sql.SQL(
            "select {value}, count(*) filter (where as_of = %s), count(*) filter (where as_of = %s)"
            " from {relation} where as_of in (%s, %s) group by 1 order by 1 nulls first"
        ).format(value=_value(column), relation=_latest(table)),
        [before, now, before, now],
    ).fetchall()
    values = [value for value, _, _ in counted]
    old = np.array([n for _, n, _ in counted], dtype=np.int64)
    new = np.array([n for _, _, n in counted], dtype=np.int64)
    nulls = (int(old[0]), int(new[0])) if counted and values[0] is None else (0, 0)
    number = without_digits(column.type) in (*NUMBERS, *INSTANTS)
    measured = _numbers if number else _categories
    distance, p_value, psi_value, bars = (
        measured(values, old, new) if old.sum() and new.sum() else (0.0, 1.0, 0.0, ())
    )
    return Drift(
        table=table.name,
        feature=column.name,
        unit="days before as_of" if column.type in INSTANTS else column.unit,
        kind="number" if number else "category",
        rows_before=int(old.sum()),
        rows=int(new.sum()),
        nulls_before=nulls[0],
        nulls=nulls[1],
        mean_before=_mean(values, old) if number else None,
        mean=_mean(values, new) if number else None,
        both=both,
        changed=changed,
        distance=distance,
        psi=psi_value,
        p_value=p_value,
        moved=False,
        bars=tuple(bars),
    )


Measured = tuple[float, float, float, Iterable[tuple[str, float, float]]]


def _numbers(values: list[float | None], old: np.ndarray, new: np.ndarray) -> Measured:
    """`values` ascend, null first; `old` and `new` count the users of each value."""
    distance = ks_distance(old, new)
    # Deciles of the month before; a value belongs to one bin, so that ties stay together.
    cumulated = (np.cumsum(old) - old) / old.sum()
    decile = np.minimum((cumulated * 10).astype(int), 9)
    if values[0] is None:
        decile = np.where(np.arange(len(values)) == 0, -1, decile)
    bins = np.unique(decile, return_inverse=True)[1]
    psi_value = psi(np.bincount(bins, old), np.bincount(bins, new))
    return distance, ks_p_value(distance, old.sum(), new.sum()), psi_value, _bars(values, old, new)


def _categories(values: list[object], old: np.ndarray, new: np.ndarray) -> Measured:
    shares = old / old.sum(), new / new.sum()
    bars = [
        ("null" if value is None else str(value).lower() if isinstance(value, bool) else str(value),
         float(a), float(b))
        for value, a, b in zip(values, *shares, strict=True)
    ]  # fmt: skip
    if len(bars) > BARS:  # the most frequent ones are shown, the others together
        bars.sort(key=lambda bar: -(bar[1] + bar[2]))
        rest = bars[BARS - 1 :]
        bars[BARS - 1 :] = [("other", sum(b[1] for b in rest), sum(b[2] for b in rest))]
    distance = float(np.abs(shares[0] - shares[1]).sum() / 2)
    return distance, chi_square_p_value(old, new), psi(old, new), bars


def _bars(
    values: list[float | None], old: np.ndarray, new: np.ndarray
) -> Iterable[tuple[str, float, float]]:
    """Null apart, then one bar a value where they are few, else equal steps; tails at the ends."""
    totals = old.sum(), new.sum()
    first = 1 if values[0] is None else 0
    if first:
        yield "null", float(old[0] / totals[0]), float(new[0] / totals[1])
    known = np.array(values[first:], dtype=float)
    old, new = old[first:], new[first:]
    if not len(known):
        return
    if len(known) <= BARS:
        for value, a, b in zip(known, old, new, strict=True):
            yield f"{value:g}", float(a / totals[0]), float(b / totals[1])
        return
    cumulated = np.cumsum(old + new) / (old + new).sum()
    low, high = known[np.searchsorted(cumulated, [0.005, 0.995])]
    edges = np.linspace(low, high, BARS + 1)
    place = np.clip(np.searchsorted(edges, known, "right") - 1, 0, BARS - 1)
    sides = np.bincount(place, old, BARS), np.bincount(place, new, BARS)
    for i in range(BARS):
        label = f"{edges[i]:.4g} to {edges[i + 1]:.4g}"
        yield label, float(sides[0][i] / totals[0]), float(sides[1][i] / totals[1])


def _mean(values: list[float | None], counts: np.ndarray) -> float | None:
    first = 1 if values and values[0] is None else 0
    if not counts[first:].sum():
        return None
    return float(np.average(np.array(values[first:], dtype=float), weights=counts[first:]))


def ks_distance(old: np.ndarray, new: np.ndarray) -> float:
    """Largest difference of two cumulative shares; counts of the same ascending values."""
    return float(np.abs(np.cumsum(old) / old.sum() - np.cumsum(new) / new.sum()).max())


def ks_p_value(distance: float, n: int, m: int) -> float:
    """Kolmogorov's limit law with Stephens' correction for finite samples."""
    root = math.sqrt(n * m / (n + m))
    x = (root + 0.12 + 0.11 / root) * distance
    if x < 0.2:  # the series no longer converges; p is 1 to 15 digits
        return 1.0
    terms = (2 * (-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 101))
    return min(max(math.fsum(terms), 0.0), 1.0)


def chi_square_p_value(old: np.ndarray, new: np.ndarray) -> float:
    """Chi-square test that two rows of counts come from one distribution."""
    table = np.array([old, new], dtype=float)
    table = table[:, table.sum(axis=0) > 0]
    freedom = table.shape[1] - 1
    if freedom < 1:
        return 1.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    half = float(((table - expected) ** 2 / expected).sum()) / 2
    # The upper tail, from that of 1 or 2 degrees of freedom in steps of two.
    a = 0.5 if freedom % 2 else 1.0
    tail = math.erfc(math.sqrt(half)) if freedom % 2 else math.exp(-half)
    while half and a < freedom / 2:
        tail += math.exp(a * math.log(half) - half - math.lgamma(a + 1))
        a += 1
    return min(tail, 1.0) if half else 1.0


def psi(old: np.ndarray, new: np.ndarray) -> float:
    """Population stability index; half a user is added to each bin, so that none is empty."""
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (old, new))
    return float(((q - p) * np.log(q / p)).sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for having asked several questions (Holm 1979), in the order given."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
