"""From published versions to the online table: what to move, and the SQL that moves it.

What is online is one slice of a view: the entities of its newest as_of (up to the end date), each
with the newest published version. So a run has two forms:

    slice    the whole slice is compared: the first run, a newer as_of, a new column, an explicit
             `feast materialize START END`
    changes  only versions published since the last run, of the as_of that is online already

Versions of other as_of's, late or backfilled, are not online values, whenever they arrive. An
entity that is not in the newest slice has left, and is removed. A pushed row stays as long as it
is newer than what is published: of a newer as_of, or pushed after the newest publication. The
functions here run statements in the caller's transaction, under the lock of `online_tables`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Literal

import psycopg
from psycopg import sql

from streamflow_feast.connections import scalar
from streamflow_feast.tables import View, all_equal, any_distinct, identifiers

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Plan:
    """What one run does for one view, as known at `publication`; instants in UTC."""

    view: View
    store: str
    form: Literal["slice", "changes", "nothing"]
    as_of: datetime | None  # of the slice; None: nothing was ever published up to the end date
    was: datetime | None  # of the slice that was online before
    publication: datetime
    since: datetime | None  # changes: versions after this known_at
    start: datetime | None  # None: incremental
    end: datetime
    filled: tuple[str, ...]  # the features that are right online after this run
    brought: datetime | None = None  # by the ledger nothing later is online; None: it cannot say

    @property
    def parameters(self) -> dict[str, Any]:
        """Of every statement here."""
        return {
            "as_of": self.as_of,
            "was": self.was,
            "publication": self.publication,
            "since": self.since if self.form == "changes" else None,
            "brought": self.brought,
        }


@dataclass
class Outcome:
    """Entities of one run for one view: looked at, written, left as they were, taken out."""

    considered: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    seconds: float = 0.0
    repaired: bool = False  # the store had what the ledger knows nothing of, as after a restore


def newest_publication(connection: psycopg.Connection) -> datetime | None:
    """known_at of the newest publication, None before the first."""
    return scalar(connection, "select max(known_at) from ledger.publications")


def newest_as_of(
    connection: psycopg.Connection, view: View, publication: datetime, end: datetime
) -> datetime | None:
    """The newest as_of <= `end` with an entity whose newest version is not a retraction."""
    # Two quick questions in a loop instead of one query: a corrected drop that took everybody away
    # is rare, and the planner never gets this wrong.
    bound, compare = end, "<="
    while True:
        parameters = {"bound": bound, "publication": publication}
        as_of = scalar(
            connection,
            sql.SQL(
                "select max(as_of) from {} where as_of " + compare + " %(bound)s"
                " and known_at <= %(publication)s and not is_retracted"
            ).format(view.relation),
            parameters,
        )
        if as_of is None:
            return None
        # A few rows first, in the index's order: else the planner reads the whole history.
        alive = any(
            scalar(
                connection,
                sql.SQL(
                    "select exists (select from (select {2}, as_of, known_at from {0}"
                    " where as_of = %(as_of)s and known_at <= %(publication)s"
                    " and not is_retracted {1}) as standing where not exists ("
                    "select from {0} as newer where {3}"
                    " and newer.as_of = standing.as_of and newer.known_at > standing.known_at"
                    " and newer.known_at <= %(publication)s))"
                ).format(
                    view.relation,
                    sql.SQL(rows),
                    identifiers(view.key_names),
                    all_equal(view.key_names, "newer", "standing"),
                ),
                {"as_of": as_of, "publication": publication},
            )
            for rows in ("order by as_of desc, known_at desc limit 20", "")
        )
        if alive:
            return as_of
        bound, compare = as_of, "<"


def make_plan(
    connection: psycopg.Connection,
    view: View,
    store: str,
    publication: datetime,
    start: datetime | None,
    end: datetime,
) -> Plan:
    """Decide what a run up to `end` does for `view`; `start` None means incremental."""
    last = connection.execute(
        """
        select as_of, publication, columns from ledger.materializations
        where view_name = %s and store = %s order by materialization_id desc limit 1
        """,
        [view.name, store],
    ).fetchone()
    was, since, filled = last or (None, None, [])
    # A table that was altered since the last run has rows of which the ledger's last row is silent.
    brought = None if since == EPOCH and was is not None else since or EPOCH
    columns = view.names
    as_of = newest_as_of(connection, view, publication, max(end, was or end))
    form: Literal["slice", "changes", "nothing"]
    if as_of is None:
        # Every row that is online was retracted since; or there was never one.
        as_of, form = was, "nothing" if was is None else "slice"
    elif as_of > end or (start is not None and as_of < start):
        # What is online is newer than this range, and stays.
        as_of, publication, columns, form = was, since or publication, tuple(filled), "nothing"
    elif as_of == was and start is None and set(view.names) <= set(filled):
        form = "changes" if since < publication else "nothing"
    else:
        form = "slice"
    return Plan(view, store, form, as_of, was, publication, since, start, end, columns, brought)


def run(connection: psycopg.Connection, plan: Plan) -> Outcome:
    """Bring the online table of Postgres up to date, in the caller's transaction."""
    began, outcome = time.perf_counter(), Outcome()
    if may_repair(plan) and scalar(connection, _unknown_online(plan), plan.parameters):
        # What nobody knows of goes first: it would stand as newer than all that is published.
        outcome.repaired = True
        remove = sql.SQL("delete from {} as online where {}").format(plan.view.table, UNKNOWN)
        outcome.removed = connection.execute(remove, plan.parameters).rowcount
        plan = replace(plan, form="slice")
    if plan.form == "slice" or (plan.form == "changes" and _has_pushed(connection, plan)):
        _run_slice(connection, replace(plan, form="slice"), outcome)
    elif plan.form == "changes":
        outcome.considered, outcome.changed, outcome.removed = connection.execute(
            _apply_changes(plan.view), plan.parameters
        ).fetchone() or (0, 0, 0)
        outcome.unchanged = max(0, outcome.considered - outcome.changed - outcome.removed)
    outcome.seconds = time.perf_counter() - began
    return outcome


UNKNOWN = sql.SQL("(online.pushed_at is null and online.known_at > %(brought)s)")


def may_repair(plan: Plan) -> bool:
    """Whether this run is about what is online, and the ledger says what that should be."""
    return plan.brought is not None and plan.as_of is not None and plan.as_of <= plan.end


def _unknown_online(plan: Plan) -> sql.Composed:
    """Whether rows are online that no materialization of this ledger has brought there: then the
    database was restored to an instant before they were."""
    return sql.SQL("select exists (select from {} as online where {})").format(
        plan.view.table, UNKNOWN
    )


def _has_pushed(connection: psycopg.Connection, plan: Plan) -> bool:
    """Whether this publication ends pushed rows; of which entities, it need not know a change."""
    query = sql.SQL("select exists (select from {} as online where {})").format(
        plan.view.table, superseded("online")
    )
    return bool(scalar(connection, query, plan.parameters))


def superseded(online: str) -> sql.Composed:
    """That a row was pushed and is not newer than the publication, which ends it."""
    return sql.SQL(
        "({0}.pushed_at is not null and {0}.as_of <= %(as_of)s"
        " and least({0}.pushed_at, {0}.known_at) <= %(publication)s)"
    ).format(sql.Identifier(online))


def _run_slice(connection: psycopg.Connection, plan: Plan, outcome: Outcome) -> None:
    view, parameters = plan.view, plan.parameters
    if _locked_empty(connection, view):
        outcome.changed = connection.execute(_fill(view), parameters).rowcount
        outcome.considered = outcome.changed
        return
    if plan.was and plan.as_of and plan.was >= plan.as_of:
        # Later than %(was)s are only pushed rows.
        outcome.removed += connection.execute(
            sql.SQL(
                "delete from {online} as online"
                " where as_of between %(as_of)s and %(was)s and {over} and not exists ("
                "select from {newest} as newest where {same}"
                " and online.as_of = %(as_of)s and not newest.is_retracted)"
            ).format(
                online=view.table,
                over=sql.SQL("(online.pushed_at is null or {})").format(superseded("online")),
                newest=newest_versions(view),
                same=all_equal(view.key_names, "newest", "online"),
            ),
            parameters,
        ).rowcount
    outcome.considered = count(connection, plan)
    newer = plan.was is not None and plan.as_of is not None and plan.as_of > plan.was
    upsert = _upsert(view, newest_versions(view), compare=not newer)
    outcome.changed = connection.execute(upsert, parameters).rowcount
    outcome.unchanged = outcome.considered - outcome.changed
    outcome.removed += connection.execute(
        sql.SQL("delete from {} as online where as_of < %(as_of)s or {}").format(
            view.table, superseded("online")
        ),
        parameters,
    ).rowcount


def _locked_empty(connection: psycopg.Connection, view: View) -> bool:
    """Whether the online table is empty and, as no one else can write to it now, stays so."""
    query = sql.SQL("select not exists (select from {})").format(view.table)
    if not scalar(connection, query):
        return False
    connection.execute(sql.SQL("lock table {} in share row exclusive mode").format(view.table))
    return scalar(connection, query)


def newest_versions(view: View) -> sql.Composed:
    """An entity's newest published version of the slice, retractions included."""
    return sql.SQL(
        "(select distinct on ({keys}) * from {source} as version where as_of = %(as_of)s"
        " and known_at <= %(publication)s"
        " and (%(since)s::timestamptz is null or known_at > %(since)s)"
        " order by {keys}, known_at desc)"
    ).format(keys=identifiers(view.key_names), source=view.versions)


def count(connection: psycopg.Connection, plan: Plan) -> int:
    """Entities of the slice."""
    return scalar(
        connection,
        sql.SQL("select count(*) from {} as newest where not is_retracted").format(
            newest_versions(plan.view)
        ),
        plan.parameters,
    )


def _fill(view: View) -> sql.Composed:
    """Into an empty table: without a look at what is there, half as expensive."""
    return sql.SQL(
        "insert into {online} ({columns}, as_of, known_at, published_at)"
        " select {columns}, as_of, known_at, now() from {newest} as newest"
        " where not is_retracted"
    ).format(
        online=view.table,
        columns=identifiers((*view.key_names, *view.names)),
        newest=newest_versions(view),
    )


def _apply_changes(view: View) -> sql.Composed:
    """Entities with a new version, written, removed: few rows, so all in one statement."""
    return sql.SQL(
        "with newest as materialized {newest}, removed as ("
        "delete from {online} as online using newest where newest.is_retracted"
        " and {same} and online.as_of <= %(as_of)s returning 1"
        "), written as ({upsert} returning 1)"
        " select (select count(*) from newest), (select count(*) from written),"
        " (select count(*) from removed)"
    ).format(
        newest=newest_versions(view),
        same=all_equal(view.key_names, "online", "newest"),
        online=view.table,
        upsert=_upsert(view, sql.SQL("newest")),
    )


def _upsert(view: View, newest: sql.Composable, *, compare: bool = True) -> sql.Composed:
    """Rows that are missing online, older there, or of the same version with another content.

    `compare` leaves unchanged rows out by a join, as `on conflict ... where` would lock each of
    them; without it, every row is taken to be new, as those of a newer as_of are.
    """
    join = sql.SQL(
        " left join {online} as there on {same}"
        " where not newest.is_retracted and ("
        "there.as_of is null"
        " or (there.as_of, coalesce(there.known_at, '-infinity'))"
        " < (newest.as_of, newest.known_at)"
        " or (there.as_of, there.known_at) = (newest.as_of, newest.known_at) and {differ}"
        " or {ended})"
    ).format(
        online=view.table,
        same=all_equal(view.key_names, "there", "newest"),
        differ=any_distinct(view.names, "there", "newest"),
        ended=superseded("there"),
    )
    return sql.SQL(
        "insert into {online} as online ({keys}, {columns}, as_of, known_at, published_at)"
        " select {new}, newest.as_of, newest.known_at, now()"
        " from {newest} as newest{which}"
        " on conflict ({keys}) do update set ({columns}, as_of, known_at, published_at, pushed_at)"
        " = row({excluded}, excluded.as_of, excluded.known_at, excluded.published_at, null)"
        " where (online.as_of, coalesce(online.known_at, '-infinity'))"
        " <= (excluded.as_of, excluded.known_at) or {ended}"
    ).format(
        online=view.table,
        keys=identifiers(view.key_names),
        columns=identifiers(view.names),
        new=identifiers((*view.key_names, *view.names), "newest"),
        excluded=identifiers(view.names, "excluded"),
        ended=superseded("online"),
        newest=newest,
        which=join if compare else sql.SQL(" where not newest.is_retracted"),
    )


def record(connection: psycopg.Connection, plan: Plan, outcome: Outcome) -> None:
    """Note the run in the ledger; in the same transaction as its rows."""
    connection.execute(
        """
        insert into ledger.materializations (
            view_name, store, as_of, publication, start_date, end_date, columns,
            considered, changed, unchanged, removed, seconds
        ) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        [
            plan.view.name, plan.store, plan.as_of, plan.publication, plan.start, plan.end,
            list(plan.filled), outcome.considered, outcome.changed, outcome.unchanged,
            outcome.removed, outcome.seconds,
        ],
    )  # fmt: skip
