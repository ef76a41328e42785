"""Two builds of the same drops, on Postgres and on Spark, and how they differ, cell by cell.

A cell is one column of one row. Two cells are equal when their bytes are: a float's sign of zero
and its last bit count. What each engine's clock says (known_at) is compared by its place among the
publications.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from data.__main__ import prepare
from data.database import Database
from data.lake.load import load as load_lake
from data.lake.session import session
from data.load.load import load as load_postgres
from orchestration.surroundings import environment
from streamflow_feast.offline import arrow_copy
from tests.dbt import builds

PLACE = "known_at"  # in its place stands the number of the publication
SHOWN = 5
DATABASES = {"postgres": "streamflow", "spark": "streamflow_spark"}  # ledger and online tables


@dataclass
class Compared:
    """What was compared, and the first cells that differ."""

    cells: int = 0
    different: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, other: Compared) -> None:
        self.cells += other.cells
        self.different += other.different
        self.examples = [*self.examples, *other.examples][:SHOWN]


@dataclass
class Sides:
    """The Postgres of the settings, and a lake; dbt's target folders are below `folder`."""

    folder: Path
    project: Path = builds.PROJECT

    def __post_init__(self) -> None:
        with self.environment("spark"):
            prepare(Database())

    @property
    def lake(self) -> Path:
        return self.folder / "lake"

    @contextmanager
    def environment(self, target: str) -> Iterator[None]:
        """Where dbt and the loader find one of the two."""
        given = {
            "STREAMFLOW_LAKE": str(self.lake),
            "STREAMFLOW_TARGET": target,
            "DBT_TARGET_PATH": str(self.folder / f"target-{target}"),
            "STREAMFLOW_PG_DATABASE": DATABASES[target],
        }
        with environment(**given):
            yield

    def deliver(self, drop: Path) -> tuple[Any, Any]:
        """Load a drop into both; both results."""
        with self.environment("postgres"):
            postgres = load_postgres(drop)
        with self.environment("spark"):
            return postgres, load_lake(drop)

    def build(self, target: str, *arguments: str, **variables: Any) -> builds.Outcome:
        """`dbt build` on one of the two, without the unit tests."""
        with self.environment(target):
            return builds.dbt(
                "build", "--exclude-resource-type", "unit_test", *arguments,
                project=self.project, **variables,
            )  # fmt: skip

    def build_both(self, **variables: Any) -> None:
        """Build and publish on both."""
        for target in ("postgres", "spark"):
            outcome = self.build(target, **variables)
            if not outcome.success:
                raise RuntimeError(f"dbt build on {target} failed:\n{outcome.output[-4000:]}")

    def compare(self) -> Compared:
        """Every version and every published slice of both."""
        known = {"postgres": _publications_of_postgres(), "spark": _publications_of_spark()}
        counts = {engine: len(instants) for engine, instants in known.items()}
        if len(set(counts.values())) != 1:
            raise RuntimeError(f"publications differ in number: {counts}")
        total = Compared()
        for name, keys in _tables().items():
            for relation in (name, f"{name}_latest"):
                left = _of_postgres(relation)
                right = _of_spark(relation, left.schema)
                total.add(
                    compare_tables(
                        numbered(left, known["postgres"]),
                        numbered(right, known["spark"]),
                        [*keys, "as_of", PLACE],
                        relation,
                    )
                )
        return total


def stop_session() -> None:
    """End Spark in this process, so that another lake can be opened."""
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    found = SparkSession.getActiveSession()
    if found is not None:
        found.stop()
    gateway = SparkContext._gateway
    if gateway is not None:
        gateway.shutdown()
        process = getattr(gateway, "proc", None)
        if process is not None:
            process.stdin.close()
            process.wait(30)
        SparkContext._gateway = None
        SparkContext._jvm = None


def _publications_of_postgres() -> list[Any]:
    return [row[0] for row in builds.rows("select known_at from ledger.publications order by 1")]


def _publications_of_spark() -> list[Any]:
    found = session().sql("select known_at from ledger.publications order by 1").toArrow()
    return found.column("known_at").cast(pa.timestamp("us", "UTC")).to_pylist()


def _tables() -> dict[str, list[str]]:
    """Published table -> its join keys, by the last publication's manifest."""
    (manifest,) = builds.rows(
        "select manifest from ledger.publications order by known_at desc limit 1"
    )[0]
    nodes = (manifest if isinstance(manifest, dict) else json.loads(manifest))["nodes"].values()
    entities = {
        node["config"]["meta"]["entity"]["name"]: list(
            node["config"]["meta"]["entity"]["join_keys"]
        )
        for node in nodes
        if "entity" in node.get("config", {}).get("meta", {})
    }
    return {
        node["name"]: entities[node["config"]["meta"]["made_from"]["entity"]]
        for node in nodes
        if node.get("columns")
    }


def _of_postgres(relation: str) -> pa.Table:
    name = sql.Identifier("published", relation)
    with Database().connect() as connection:
        columns = connection.execute(
            "select attname, format_type(atttypid, atttypmod) from pg_attribute"
            " where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped order by attnum",
            [f"published.{relation}"],
        ).fetchall()
        schema = pa.schema([(name, arrow_copy.arrow_type(name, kind)) for name, kind in columns])
        listed = sql.SQL(", ").join(sql.Identifier(column) for column in schema.names)
        query = sql.SQL("select {} from {}").format(listed, name)
        return arrow_copy.read(connection, query, schema)


def _of_spark(relation: str, schema: pa.Schema) -> pa.Table:
    found = session().table(f"published.{relation}").toArrow()
    if set(found.column_names) != set(schema.names):
        raise RuntimeError(f"{relation} has columns {found.column_names} and {schema.names}")
    return pa.table(
        {field.name: found.column(field.name).cast(field.type) for field in schema}, schema=schema
    )


def numbered(table: pa.Table, publications: list[Any]) -> pa.Table:
    place = table.column_names.index(PLACE)
    instants = pa.array(publications, pa.timestamp("us", "UTC"))
    return table.set_column(place, PLACE, pc.index_in(table.column(PLACE), value_set=instants))


def compare_tables(left: pa.Table, right: pa.Table, keys: list[str], name: str) -> Compared:
    """Cells of two tables whose rows are named by `keys`; a row that one lacks differs in all."""
    order = [(key, "ascending") for key in keys]
    left, right = left.sort_by(order).combine_chunks(), right.sort_by(order).combine_chunks()
    width = left.num_columns
    result = Compared(cells=max(left.num_rows, right.num_rows) * width)
    if left.num_rows != right.num_rows or any(
        not left.column(key).equals(right.column(key)) for key in keys
    ):
        rows = [
            set(zip(*(t.column(key).to_pylist() for key in keys), strict=True))
            for t in (left, right)
        ]
        lonely = rows[0] ^ rows[1]
        result.different = max(len(lonely), 1) * width
        result.examples = [
            f"{name}: {row} is on one side alone" for row in sorted(lonely, key=str)[:SHOWN]
        ]
        return result
    for column in left.column_names:
        unequal = differing(left.column(column), right.column(column))
        result.different += len(unequal)
        for row in unequal[:SHOWN]:
            named = ", ".join(str(left.column(key)[row].as_py()) for key in keys)
            values = [repr(table.column(column)[row].as_py()) for table in (left, right)]
            result.examples.append(f"{name}.{column} of {named}: {values[0]} and {values[1]}")
    return result


def differing(left: pa.ChunkedArray, right: pa.ChunkedArray) -> list[int]:
    """The rows in which two columns of one type differ, floats by their bytes."""
    left, right = _bits(left), _bits(right)
    if left.equals(right):
        return []
    pairs = zip(left.to_pylist(), right.to_pylist(), strict=True)
    return [row for row, (one, other) in enumerate(pairs) if one != other]


def _bits(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_float64(column.type):
        return pa.chunked_array([chunk.view(pa.int64()) for chunk in column.chunks], pa.int64())
    return column
