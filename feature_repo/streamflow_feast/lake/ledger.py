"""The publications of the lake, as Postgres has them for Feast, the audit and the API.

Where dbt builds on Spark, the switch is a row of the lake's own ledger. Everything downstream goes
by schema `ledger` of Postgres, into which the rows that it lacks are brought before anybody asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.dataset
from feast.data_source import DataSource

from data.database import Database
from data.paths import lake

UTC = pa.timestamp("us", "UTC")


def is_of_lake(source: DataSource | None) -> bool:
    """Whether a view's rows lie on the lake. (By name: the class is of an extra.)"""
    return type(source).__name__ == "SparkSource"


def rows(name: str) -> list[dict[str, Any]]:
    """A table of the lake's ledger, oldest known_at first; [] before the first build."""
    folder = lake() / "ledger" / name
    if not folder.is_dir():
        return []
    options = pyarrow.dataset.ParquetReadOptions(coerce_int96_timestamp_unit="us")
    form = pyarrow.dataset.ParquetFileFormat(read_options=options)
    found = pyarrow.dataset.dataset(folder, format=form).to_table()
    for place, field in enumerate(found.schema):
        if pa.types.is_timestamp(field.type):  # Spark writes instants, which are UTC
            column = found.column(place).cast(pa.timestamp("us", field.type.tz)).cast(UTC)
            found = found.set_column(place, field.name, column)
    listed: list[dict[str, Any]] = found.to_pylist()
    return sorted(listed, key=lambda row: row["known_at"])


def mirror(connection: psycopg.Connection) -> None:
    """Bring what Postgres lacks, in the transaction that is open."""
    known = {row[0] for row in connection.execute("select known_at from ledger.publications")}
    builds = {row["known_at"]: row for row in rows("builds")}
    for publication in _new(known):
        build = builds[publication["known_at"]]
        connection.execute(
            """
            insert into ledger.builds (
                known_at, invocation_id, status, load_from, load_to, recompute, cadence, since,
                started_at, ended_at
            ) values (
                %(known_at)s, %(invocation_id)s, 'published', %(load_from)s, %(load_to)s,
                %(recompute)s, %(cadence)s, %(since)s, %(known_at)s, %(published_at)s
            ) on conflict do nothing
            """,
            build | {"published_at": publication["published_at"]},
        )
        connection.execute(
            """
            insert into ledger.publications (
                known_at, invocation_id, code_version, load_to, cadence, since, rows_appended,
                definitions, manifest, tests_run, published_at
            ) values (
                %(known_at)s, %(invocation_id)s, %(code_version)s, %(load_to)s, %(cadence)s,
                %(since)s, %(rows_appended)s, %(definitions)s, %(manifest)s, %(tests_run)s,
                %(published_at)s
            ) on conflict do nothing
            """,
            publication,
        )
    for test in _tests_of(connection):
        connection.execute(
            """
            insert into ledger.tests values (
                %(invocation_id)s, %(test_id)s, %(name)s, %(kind)s, %(status)s, %(failures)s,
                %(message)s, %(seconds)s
            ) on conflict do nothing
            """,
            test,
        )


def mirrored(settings: Database | None = None) -> None:
    """The same in a transaction of its own."""
    with (settings or Database()).connect(application_name="streamflow lake") as connection:
        connection.execute("select pg_advisory_xact_lock(hashtext('streamflow lake'))")
        mirror(connection)


def _new(known: set[Any]) -> Iterator[dict[str, Any]]:
    return (row for row in rows("publications") if row["known_at"] not in known)


def _tests_of(connection: psycopg.Connection) -> list[dict[str, Any]]:
    """Results of tests of builds that Postgres knows and whose tests it lacks."""
    lacking = {
        row[0]
        for row in connection.execute(
            "select invocation_id from ledger.builds where not exists ("
            "select from ledger.tests where tests.invocation_id = builds.invocation_id)"
        )
    }
    if not lacking or not (lake() / "ledger" / "tests").is_dir():
        return []
    found = pyarrow.dataset.dataset(lake() / "ledger" / "tests", format="parquet").to_table()
    return [row for row in found.to_pylist() if row["invocation_id"] in lacking]
