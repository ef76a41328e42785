"""Does online equal offline? Every entity, view and value, compared where both lie.

Independent of what the engine noted down, and of Feast: the views are the tables of schema
`online`, the right values follow from `published.*` up to the end date of the last run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import psycopg
from psycopg import sql

from data.database import Database
from streamflow_feast.connections import transaction
from streamflow_feast.materialize.slice import (
    newest_as_of,
    newest_publication,
    newest_versions,
    superseded,
)
from streamflow_feast.online import tables as online_tables
from streamflow_feast.tables import View, all_equal, any_distinct, identifiers

NAMED = 10  # differences that an error names
CONNECTIONS = 2
OWN_COLUMNS = {"as_of", "known_at", "published_at", "pushed_at", "is_retracted"}


@dataclass(frozen=True)
class AuditResult:
    """Entities of one view. `as_of` is that of the offline rows; None when there are none."""

    view: str
    publication: datetime
    as_of: datetime | None
    compared: int
    differing: int
    missing: int  # offline, not online
    extra: int  # online, not offline
    pushed: int  # online from a push, and not equal to what is published: nothing to compare with
    seconds: float
    examples: tuple[str, ...] = field(default=(), repr=False)

    @property
    def passed(self) -> bool:
        return not (self.differing or self.missing or self.extra)


class AuditError(RuntimeError):
    """Online does not equal offline; names the first differences and says what to do."""

    def __init__(self, message: str, results: Sequence[AuditResult] = ()) -> None:
        super().__init__(message)
        self.results = tuple(results)


def audit(
    settings: Database | None = None, views: Sequence[str] | None = None
) -> list[AuditResult]:
    """Compare the online tables (default: all) with the newest publication; keep the results.

    A result row a view goes to `ledger.audits`, also when it failed.

    Raises:
        AuditError: a difference, or tables that cannot be compared.
    """
    settings = settings or Database()
    with transaction(settings, "streamflow audit") as connection:
        publication = newest_publication(connection)
        if publication is None:
            raise AuditError("Nothing is published yet: cd dbt_project && dbt build")
        tables = [_view(connection, name) for name in _online_views(connection, views)]

    def compare(view: View) -> AuditResult:
        with transaction(settings, "streamflow audit") as connection:
            return compare_view(connection, view, publication)

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        results = list(threads.map(compare, tables))
    return conclude(settings, results, online_tables.STORE)


def conclude(settings: Database, results: list[AuditResult], store: str) -> list[AuditResult]:
    """Keep the results in the ledger and return them, or raise AuditError."""
    with transaction(settings, "streamflow audit") as connection:
        for result in results:
            connection.execute(
                """
                insert into ledger.audits (
                    view_name, store, publication, as_of, compared, differing, missing, extra,
                    seconds
                ) values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
                """,
                [
                    result.view, store, result.publication, result.as_of, result.compared,
                    result.differing, result.missing, result.extra, result.seconds,
                ],
            )  # fmt: skip
    failed = [result for result in results if not result.passed]
    if failed:
        counts = "; ".join(
            f"{result.view}: {result.differing:,} differing, {result.missing:,} missing, "
            f"{result.extra:,} extra of {result.compared:,}"
            for result in failed
        )
        examples = [line for result in failed for line in result.examples][:NAMED]
        raise AuditError(
            "\n  ".join([f"Online does not equal offline. {counts}. The first:", *examples])
            + "\nRepair with: cd feature_repo && feast materialize 1970-01-01T00:00:00 "
            "$(date -u +%Y-%m-%dT%H:%M:%S)",
            results,
        )
    return results


def compare_view(connection: psycopg.Connection, view: View, publication: datetime) -> AuditResult:
    """Compare one online table with the versions published up to `publication`."""
    began = time.perf_counter()
    as_of = expected_as_of(connection, view, online_tables.STORE, publication)
    parameters = {"as_of": as_of, "publication": publication, "since": None}
    matched, wrong, others = connection.execute(_check(view), parameters).fetchone() or (0, 0, 0)
    compared = matched
    counts = {"pushed": 0, "missing": 0, "extra": 0, "differing": 0}
    examples: list[str] = []
    if wrong or others:
        for kind, entity, number, there, right in connection.execute(
            _differences(view), parameters
        ):
            counts[kind] = number
            if kind != "pushed":
                examples.append(f"{view.name} {entity}: {_difference(kind, there, right)}")
        compared = matched + counts["differing"] + counts["missing"]
    seconds = time.perf_counter() - began
    return AuditResult(
        view.name, publication, as_of, compared, **counts, seconds=seconds,
        examples=tuple(examples[:NAMED]),
    )  # fmt: skip


def expected_as_of(
    connection: psycopg.Connection, view: View, store: str, publication: datetime
) -> datetime | None:
    """Of the rows that should be online: the newest as_of up to the end of the last run."""
    last = connection.execute(
        """
        select greatest(end_date, as_of) from ledger.materializations
        where view_name = %s and store = %s and publication > 'epoch'
        order by materialization_id desc limit 1
        """,
        [view.name, store],
    ).fetchone()
    end = last[0] if last else datetime.now(timezone.utc)
    return newest_as_of(connection, view, publication, end)


def _online_views(connection: psycopg.Connection, wanted: Sequence[str] | None) -> list[str]:
    there = [
        name
        for (name,) in connection.execute(
            "select tablename from pg_tables where schemaname = 'online'"
            " and tablename <> 'registry' order by tablename"
        )
    ]
    unknown = sorted(set(wanted or ()) - set(there))
    if unknown or not there:
        raise AuditError(
            f"There is no online table {f'online.{unknown[0]}' if unknown else 'yet'}. "
            "Make it with: cd feature_repo && feast apply"
        )
    return [name for name in there if wanted is None or name in wanted]


def _view(connection: psycopg.Connection, name: str) -> View:
    """The view by its online table, checked against the published relation."""
    columns = {
        schema: {
            column: kind
            for column, kind in connection.execute(
                # Without digits: a view may show a numeric(12,2) as numeric.
                "select attname, format_type(atttypid, null) from pg_attribute"
                " where attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))"
                " and attnum > 0 and not attisdropped order by attnum",
                [schema, name],
            )
            if column not in OWN_COLUMNS
        }
        for schema in ("online", "published")
    }
    if columns["online"] != columns["published"]:
        differing = sorted(set(columns["online"].items()) ^ set(columns["published"].items()))
        raise AuditError(
            f"online.{name} and published.{name} have different columns, first "
            f"{differing[0][0]} {differing[0][1]}. Bring them together with: "
            "cd dbt_project && dbt build; cd ../feature_repo && feast apply && feast "
            "materialize-incremental $(date -u +%Y-%m-%dT%H:%M:%S)"
        )
    keys = online_tables.key_types(connection, name)
    features = tuple(item for item in columns["online"].items() if item not in keys)
    return View(name, f"published.{name}", keys, features, None)


def _check(view: View) -> sql.Composed:
    """(versions that are online as they are, versions that are wrong online, other online rows).

    In one pass without sorting out the newest versions: one that is not equal online is wrong
    only if no newer one stands, and if it is no retraction of a row that is indeed not there.
    """
    return sql.SQL(
        """
        select
            count(*) filter (where equal),
            count(*) filter (where case when equal or as_of is null then false else not exists (
                select from {source} as newer
                where {newer_of_it} and newer.as_of = version.as_of
                    and newer.known_at > version.known_at and newer.known_at <= %(publication)s
            ) and (there or not is_retracted) end),
            count(*) filter (where as_of is null)
        from (
            select
                {keys},
                offline.as_of,
                offline.known_at,
                offline.is_retracted,
                online.as_of is not null as there,
                online.known_at = offline.known_at and online.as_of = offline.as_of
                    and not offline.is_retracted and not {distinct} as equal
            from (
                select * from {versions} as published
                where as_of = %(as_of)s and known_at <= %(publication)s
            ) as offline
            full join {online} as online on {same}
        ) as version
        """
    ).format(
        keys=identifiers(view.key_names, "offline"),
        newer_of_it=all_equal(view.key_names, "newer", "version"),
        same=all_equal(view.key_names, "online", "offline"),
        source=view.relation,
        versions=view.versions,
        online=view.table,
        distinct=any_distinct(view.names, "offline", "online"),
    )


def _differences(view: View) -> sql.Composed:
    """(kind, keys as text, how many of this kind, online row, offline row), a few of each kind."""
    return sql.SQL(
        """
        select kind, concat_ws(', ', {keys}), number, online, offline from (
            select
                kind,
                {keys},
                online,
                offline,
                count(*) over (partition by kind) as number,
                row_number() over (partition by kind order by {keys}) as place
            from (
                select
                    {keys},
                    to_jsonb(online) - array['published_at', 'pushed_at'] as online,
                    to_jsonb(offline) - 'is_retracted' as offline,
                    case
                        when online.as_of is null then 'missing'
                        when online.pushed_at is not null and {ended} is not true then 'pushed'
                        when offline.as_of is null then 'extra'
                        else 'differing'
                    end as kind
                from (select * from {newest} as newest where not is_retracted) as offline
                full join {online} as online using ({keys})
                where offline.as_of is null or online.as_of is null or {distinct}
            ) as unequal
        ) as numbered
        where place <= {named}
        order by kind, {keys}
        """
    ).format(
        keys=identifiers(view.key_names),
        ended=superseded("online"),
        newest=newest_versions(view),
        online=view.table,
        distinct=any_distinct(("as_of", "known_at", *view.names), "offline", "online"),
        named=sql.Literal(NAMED),
    )


def _difference(kind: str, online: dict[str, Any] | None, offline: dict[str, Any] | None) -> str:
    if kind == "missing":
        return "offline, but not online"
    if kind == "extra":
        return "online, but not offline"
    assert online is not None
    assert offline is not None
    return ", ".join(
        f"{name} is {online[name]!r} online and {value!r} offline"
        for name, value in offline.items()
        if online[name] != value
    )
