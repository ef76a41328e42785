"""What Feast makes of both builds: the online rows and a training set, cell by cell."""

from __future__ import annotations

import contextlib
import io

import pyarrow as pa
from psycopg import sql

from data.database import Database
from orchestration import steps
from streamflow_feast.offline import arrow_copy
from tests.spark.sides import Compared, Sides, compare_tables, numbered

NOT_COMPARED = ("published_at", "pushed_at")  # when this process wrote


def materialized(sides: Sides, target: str) -> None:
    """Apply, materialize and audit one of the two."""
    with sides.environment(target), contextlib.redirect_stdout(io.StringIO()):
        steps.apply()
        steps.materialize()
        steps.audit()


def compare_online(sides: Sides) -> Compared:
    """Materialize both into databases of their own, audit them, and compare every online row."""
    tables: dict[str, dict[str, pa.Table]] = {}
    keys: dict[str, list[str]] = {}
    for target in ("postgres", "spark"):
        materialized(sides, target)
        with sides.environment(target), Database().connect() as connection:
            instants = [
                row[0]
                for row in connection.execute("select known_at from ledger.publications order by 1")
            ]
            names = connection.execute(
                "select tablename from pg_tables where schemaname = 'online'"
                " and tablename <> 'registry' order by 1"
            ).fetchall()
            for (name,) in names:
                keys[name] = _keys(connection, name)
                found = _rows(connection, name)
                tables.setdefault(target, {})[name] = numbered(found, instants)
    assert tables["postgres"].keys() == tables["spark"].keys(), "the online tables differ"
    total = Compared()
    for name, left in tables["postgres"].items():
        right = tables["spark"][name].select(left.column_names)
        total.add(compare_tables(left, right, keys[name], f"online.{name}"))
    return total


def compare_training_sets(sides: Sides, as_of: str) -> Compared:
    """The same training set of both, byte by byte."""
    from streamflow_feast.training.training_set import write_training_set

    written = {}
    for target in ("postgres", "spark"):
        with sides.environment(target):
            written[target] = write_training_set(as_of, out=sides.folder / f"training-{target}")
    left, right = written["postgres"], written["spark"]
    total = compare_tables(left.table, right.table, ["user_id", "as_of"], "training set")
    for one, other in zip(left.files[:2], right.files[:2], strict=True):  # the third says when
        if one.read_bytes() != other.read_bytes():
            total.different += 1
            total.examples.append(f"{one.name} has other bytes")
    return total


def _keys(connection: object, name: str) -> list[str]:
    return [
        row[0]
        for row in connection.execute(  # type: ignore[attr-defined]
            "select attname from pg_index join pg_attribute on attrelid = indrelid"
            " and attnum = any(indkey) where indrelid = to_regclass(%s) and indisprimary",
            [f"online.{name}"],
        )
    ]


def _rows(connection: object, name: str) -> pa.Table:
    columns = connection.execute(  # type: ignore[attr-defined]
        "select attname, format_type(atttypid, atttypmod) from pg_attribute"
        " where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped order by attname",
        [f"online.{name}"],
    ).fetchall()
    schema = pa.schema(
        [(n, arrow_copy.arrow_type(n, kind)) for n, kind in columns if n not in NOT_COMPARED]
    )
    listed = sql.SQL(", ").join(map(sql.Identifier, schema.names))
    query = sql.SQL("select {} from {}").format(listed, sql.Identifier("online", name))
    return arrow_copy.read(connection, query, schema)  # type: ignore[arg-type]
