"""Who and what there is at a snapshot: users and their labels, in Postgres or on the lake."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import psycopg
import pyarrow as pa
from psycopg import sql

from data.target import target
from streamflow_feast.lake import ledger
from streamflow_feast.lake import point_in_time as on_lake
from streamflow_feast.offline import arrow_copy, point_in_time
from streamflow_feast.offline.entity_frame import UTC
from streamflow_feast.offline.point_in_time import View

LABELS, USERS = (
    View(table, "published", table, {"user_id": "user_id"}, {}, "as_of", "known_at")
    for table in ("churn_labels", "user_features")
)
LABEL = "churn_label"
SCHEMA = pa.schema([("user_id", pa.string()), ("as_of", UTC), (LABEL, pa.bool_())])


def bring_publications(connection: psycopg.Connection) -> None:
    """Where dbt builds on Spark, have its newest publications in the ledger."""
    if target() == "spark":
        ledger.mirror(connection)


def snapshots_there(
    connection: psycopg.Connection, known_at: datetime, *, of_labels: bool
) -> list[datetime]:
    """The as_of's with labels, or else with users, as known at an instant; in order."""
    source = LABELS if of_labels else USERS
    if target() == "spark":
        from streamflow_feast.lake.training import read

        query = (
            f"select distinct as_of from ({on_lake.effective(source, known_at)}) as v order by 1"
        )
        found = read(query, pa.schema([("as_of", UTC)]))
        return list(found.column("as_of").to_pylist())
    composed = sql.SQL("select distinct as_of from ({}) v order by as_of").format(
        point_in_time.effective(source, known_at)
    )
    return [row[0] for row in connection.execute(composed)]


def users_and_labels(
    connection: psycopg.Connection, snapshots: Sequence[datetime], known_at: datetime
) -> pa.Table:
    """(user_id, as_of, label) of everyone in the snapshots or with a label; null: unknown."""
    if target() == "spark":
        from streamflow_feast.lake.training import read

        listed = ", ".join(map(on_lake.instant, snapshots))
        users, labels = (
            f"(select * from ({on_lake.effective(view, known_at)}) as v where as_of in ({listed}))"
            for view in (USERS, LABELS)
        )
        return read(
            f"select user_id, as_of, {LABEL} from {users} as users full join {labels} as labels"
            " using (user_id, as_of)",
            SCHEMA,
        )
    instants = sql.SQL(", ").join(sql.Literal(moment.isoformat()) for moment in snapshots)
    users_there, labels_there = (
        sql.SQL("(select * from ({}) v where as_of = any(array[{}]::timestamptz[]))").format(
            point_in_time.effective(view, known_at), instants
        )
        for view in (USERS, LABELS)
    )
    query = sql.SQL(
        "select user_id, as_of, {} from {} users full join {} labels using (user_id, as_of)"
    ).format(sql.Identifier(LABEL), users_there, labels_there)
    return arrow_copy.read(connection, query, SCHEMA)
