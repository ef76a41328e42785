"""The same training set by DuckDB and by Polars, from the same versions as Parquet files.

What a user without a feature store would write: of every (user, as_of) the newest version, the
retracted ones left out, then an as-of join a view. Their answers are compared with ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg import sql

THREADS = 2  # as many as our own store has connections

ARROW = {
    "text": pa.string(),
    "boolean": pa.bool_(),
    "bigint": pa.int64(),
    "double precision": pa.float64(),
}
VERSION = {
    "user_id": pa.string(),
    "as_of": pa.timestamp("us", "UTC"),
    "known_at": pa.timestamp("us", "UTC"),
    "is_retracted": pa.bool_(),
}


def export(connection: psycopg.Connection, views: dict[str, dict[str, str]], folder: Path) -> None:
    """Every version of every view, a Parquet file a view."""
    from streamflow_feast.offline import arrow_copy

    for name, columns in views.items():
        schema = pa.schema({**VERSION, **{column: ARROW[kind] for column, kind in columns.items()}})
        query = sql.SQL("select {} from {}").format(
            sql.SQL(", ").join(map(sql.Identifier, schema.names)),
            sql.Identifier("published", name),
        )
        pq.write_table(arrow_copy.read(connection, query, schema), folder / f"{name}.parquet")


def duckdb_asof(folder: Path, views: dict[str, dict[str, str]], frame: pd.DataFrame) -> pa.Table:
    """DuckDB's ASOF join, its result as Arrow, in any order."""
    import duckdb

    columns = ", ".join(f"{view}.{column}" for view, names in views.items() for column in names)
    joins = " ".join(
        f"asof left join (select * from '{folder / view}.parquet' qualify row_number() over"
        " (partition by user_id, as_of order by known_at desc) = 1 and not is_retracted) as"
        f" {view} on frame.user_id = {view}.user_id and frame.event_timestamp >= {view}.as_of"
        for view in views
    )
    with duckdb.connect(config={"threads": THREADS}) as connection:
        connection.register("frame", frame)
        found = connection.sql(f"select frame.*, {columns} from frame {joins}")
        return found.to_arrow_table()


def polars_asof(folder: Path, views: dict[str, dict[str, str]], frame: pd.DataFrame) -> pa.Table:
    """Polars' join_asof, lazy, its result as Arrow, in order of the instants."""
    import polars

    joined: Any = polars.from_pandas(frame).lazy()
    joined = joined.with_columns(
        polars.col("event_timestamp").cast(polars.Datetime("us", "UTC"))
    ).sort("event_timestamp")
    for view, names in views.items():
        versions = (
            polars.scan_parquet(folder / f"{view}.parquet")
            .sort("known_at")
            .unique(["user_id", "as_of"], keep="last", maintain_order=True)
            .filter(~polars.col("is_retracted"))
            .select("user_id", "as_of", *names)
            .sort("as_of")
        )
        joined = joined.join_asof(
            versions, left_on="event_timestamp", right_on="as_of", by="user_id"
        ).drop("as_of")
    return joined.collect().to_arrow()
