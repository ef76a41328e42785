"""Feast's compute engine: `feast materialize` and `materialize-incremental` by publication.

All views of a run are one transaction with their ledger rows, so a kill at any point leaves either
everything or nothing, and no reader sees views of two publications. Feast's own bookkeeping
(materialization intervals) is written afterwards, for `feast feature-views describe` to show;
nothing here depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Literal

import psycopg
from feast import BatchFeatureView, Entity, FeatureView, StreamFeatureView
from feast.infra.common.materialization_job import (
    MaterializationJob,
    MaterializationJobStatus,
    MaterializationTask,
)
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.registry.base_registry import BaseRegistry
from feast.infra.registry.registry import Registry
from feast.repo_config import FeastConfigBaseModel
from feast.utils import make_tzaware

from data.database import Database
from streamflow_feast.connections import DatabaseUnreachable, scalar, transaction
from streamflow_feast.dbt.manifest import VERSION_COLUMNS
from streamflow_feast.kinds import InexactError
from streamflow_feast.lake.ledger import is_of_lake, mirror
from streamflow_feast.materialize import slice as publish
from streamflow_feast.materialize.slice import EPOCH, Outcome, Plan
from streamflow_feast.online import tables as online_tables
from streamflow_feast.online.store import StreamflowOnlineStore
from streamflow_feast.registry import RegistryConflictError
from streamflow_feast.tables import View
from streamflow_feast.views import view_of

KEPT_INTERVALS = 20
APPLY = "cd feature_repo && feast apply"
BUILD = f"cd dbt_project && dbt build, then: {APPLY}"
AGAIN = "cd feature_repo && feast materialize-incremental $(date -u +%Y-%m-%dT%H:%M:%S)"


class MaterializationError(RuntimeError):
    """Nothing was changed online; says why and what to do."""


class StreamflowEngineConfig(FeastConfigBaseModel):
    """`batch_engine` in feature_store.yaml; the connection comes from data/database.py."""

    type: Literal["streamflow_feast.materialize.engine.StreamflowEngine"] = (
        "streamflow_feast.materialize.engine.StreamflowEngine"
    )


class _Job(MaterializationJob):
    def __init__(self, task: MaterializationTask) -> None:
        self.task = task

    def status(self) -> MaterializationJobStatus:
        return MaterializationJobStatus.SUCCEEDED

    def error(self) -> BaseException | None:
        return None

    def should_be_retried(self) -> bool:
        return False

    def job_id(self) -> str:
        return f"{self.task.feature_view.name} {self.task.end_time.isoformat()}"

    def url(self) -> str | None:
        return None


class StreamflowEngine(ComputeEngine):
    """Moves published versions online, into schema `online` or, through Feast, into Redis."""

    def __init__(self, **arguments: Any) -> None:
        arguments.pop("type", None)
        super().__init__(**arguments)
        self.results: dict[str, Outcome] = {}  # of the last run, by view

    @property
    def supports_batch(self) -> bool:
        """Feast hands over all views at once."""
        return True

    @property
    def applies_materialization(self) -> bool:
        """Feast leaves its bookkeeping to `_note_intervals`."""
        return True

    def update(
        self,
        project: str,
        views_to_delete: Sequence[Any],
        views_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
    ) -> None:
        """For schema `online` the online store does this; for Redis the ledger must forget."""
        self._forget(views_to_delete)

    def teardown_infra(
        self,
        project: str,
        fvs: Sequence[BatchFeatureView | StreamFeatureView | FeatureView],
        entities: Sequence[Entity],
    ) -> None:
        """As `update`."""
        self._forget(fvs)

    def _forget(self, views: Sequence[Any]) -> None:
        if views and not isinstance(self.online_store, StreamflowOnlineStore):
            with Database().connect() as connection:
                for view in views:
                    online_tables.forget(connection, view.name, self.store_name(), emptied=True)

    def materialize(
        self,
        registry: BaseRegistry,
        tasks: MaterializationTask | list[MaterializationTask],
        *,
        lineage_parent: Any = None,
        **kwargs: Any,
    ) -> list[MaterializationJob]:
        """Bring the online store up to date with the newest publication; prints a line a view.

        Raises:
            MaterializationError: nothing is published, or a table or column is missing.
            DatabaseUnreachable: no connection.
        """
        tasks = [tasks] if isinstance(tasks, MaterializationTask) else tasks
        if not tasks:
            return []
        settings = Database()
        try:
            with transaction(settings, "feast materialize") as connection:
                self.results = self._run(connection, tasks)
        except DatabaseUnreachable:
            raise
        except psycopg.OperationalError as lost:
            raise MaterializationError(
                "The connection to the database was lost; nothing was changed online. When it is "
                f"back: {AGAIN}"
            ) from lost
        _note_intervals(registry, tasks)
        return [_Job(task) for task in tasks]

    def _run(
        self, connection: psycopg.Connection, tasks: Sequence[MaterializationTask]
    ) -> dict[str, Outcome]:
        if not scalar(connection, online_tables.TRY_LOCK):
            print("Another materialization or apply is running; waiting for it.", flush=True)
            connection.execute(online_tables.LOCK)
        of_lake = [task for task in tasks if is_of_lake(task.feature_view.batch_source)]
        if of_lake:
            mirror(connection)
        publication = publish.newest_publication(connection)
        if publication is None:
            raise MaterializationError(
                "Nothing is published yet, so there is nothing to bring online. Build and test "
                f"first: cd dbt_project && dbt build; then: {AGAIN}"
            )
        print(
            f"By publication, up to that of {publication:%Y-%m-%d %H:%M:%S} UTC "
            "(the starts that materialize-incremental names above limit nothing):",
            flush=True,
        )
        views = [view_of(task.feature_view) for task in tasks]
        if of_lake:
            from streamflow_feast.lake.slice import bring  # of an optional extra

            bring(
                connection,
                [view_of(task.feature_view) for task in of_lake],
                [_range(task)[1] for task in of_lake],
                self.store_name(),
            )
        _require_columns(
            connection, views, online=isinstance(self.online_store, StreamflowOnlineStore)
        )
        results = {}
        for task, view in zip(tasks, views, strict=True):
            start, end = _range(task)
            writer = self._writer(task.feature_view, view)
            plan = publish.make_plan(connection, view, self.store_name(), publication, start, end)
            try:
                with connection.transaction():
                    outcome = (writer or publish.run)(connection, plan)
            except psycopg.errors.CheckViolation as refused:
                what = online_tables.inexact(connection, refused)
                raise MaterializationError(f"{what}. Nothing was changed online") from refused
            except InexactError as refused:
                raise MaterializationError(f"{view.name}: {refused}") from refused
            publish.record(connection, plan, outcome)
            results[view.name] = outcome
            print(_line(plan, outcome), flush=True)
        return results

    def store_name(self) -> str:
        """This online store in the ledger; no credentials in it."""
        if isinstance(self.online_store, StreamflowOnlineStore):
            return online_tables.STORE
        parts = self.repo_config.online_store.connection_string.split(",")
        shown = [part for part in parts if "=" not in part or part.startswith("db=")]
        return f"redis {','.join(shown)}"

    def _writer(self, feature_view: FeatureView, view: View) -> Any:
        """None for schema `online`, else what writes to the stock store."""
        if isinstance(self.online_store, StreamflowOnlineStore):
            return None
        if self.repo_config.online_store.type != "redis":
            raise MaterializationError(
                f"This engine brings features into Postgres or Redis, not into "
                f"{self.repo_config.online_store.type!r}. Use another batch_engine for it."
            )
        from streamflow_feast.redis.writer import RedisWriter  # redis is an optional extra

        return RedisWriter(self.repo_config, self.online_store, feature_view, view).run


def _range(task: MaterializationTask) -> tuple[datetime | None, datetime]:
    """Start (None for materialize-incremental) and end. Feast passes no flag, but a start that it
    has made up: the end of the last interval, or now minus ttl, or minus 52 weeks."""
    start, end = make_tzaware(task.start_time), make_tzaware(task.end_time)
    now = datetime.now(timezone.utc)
    if task.disable_event_timestamp:
        return EPOCH, now
    last = task.feature_view.most_recent_end_time
    if last is not None:
        return (None if start == make_tzaware(last) else start), end
    made_up = now - (task.feature_view.ttl or timedelta(weeks=52))
    return (None if abs(start - made_up) < timedelta(minutes=10) else start), end


def _require_columns(
    connection: psycopg.Connection, views: Sequence[View], *, online: bool
) -> None:
    """Raise MaterializationError when a relation or one of its columns is missing."""
    needed = {
        view.source: ({*view.key_names, *VERSION_COLUMNS, *view.names}, BUILD) for view in views
    }
    if online:
        for view in views:
            own = {*view.key_names, "as_of", "known_at", "pushed_at"}
            needed[f"online.{view.name}"] = ({*own, *view.names}, APPLY)
    there: dict[str, set[str]] = {}
    for relation, column in connection.execute(
        "select relation, attname from unnest(%s::text[]) as relation inner join pg_attribute"
        " on attrelid = to_regclass(relation) where attnum > 0 and not attisdropped",
        [list(needed)],
    ):
        there.setdefault(relation, set()).add(column)
    for relation, (columns, remedy) in needed.items():
        missing = sorted(columns - there.get(relation, set()))
        if missing:
            what = f"{relation}.{missing[0]}" if relation in there else relation
            raise MaterializationError(
                f"{what} does not exist. If it is defined, make it with: {remedy}; then: {AGAIN}"
            )


def _line(plan: Plan, outcome: Outcome) -> str:
    shown = f"{plan.as_of:%Y-%m-%d}" if plan.as_of else "never"
    note = ""
    if plan.form == "nothing" and plan.as_of and plan.as_of > plan.end:
        note = f" (newer than {plan.end:%Y-%m-%d}, so it stays)"
    if outcome.repaired:
        note = " (the store is not what the ledger knows, as after a restore: all compared)"
    return (
        f"  {plan.view.name:<24} as of {shown}{note}: {outcome.considered:,} considered, "
        f"{outcome.changed:,} changed, {outcome.unchanged:,} unchanged, "
        f"{outcome.removed:,} removed, {outcome.seconds:.2f} s"
    )


def _note_intervals(registry: BaseRegistry, tasks: Sequence[MaterializationTask]) -> None:
    """Add the interval to each view in Feast's registry, in one write.

    Not by `apply_materialization`: that one sets the state AVAILABLE_ONLINE, from which every
    later run goes through MATERIALIZING, in which Feast refuses reads, for ever after a kill.
    """
    if not isinstance(registry, Registry):
        for task in tasks:
            registry.apply_materialization(
                task.feature_view, task.project, task.start_time, task.end_time
            )
        return
    now = datetime.now(timezone.utc)
    project, attempts = tasks[0].project, 5
    for attempt in range(attempts):
        registry.refresh(project)
        views = {
            view.spec.name: view
            for view in registry.cached_registry_proto.feature_views
            if view.spec.project == project
        }
        for task in tasks:
            if task.feature_view.name not in views:
                continue  # deleted by a `feast apply` meanwhile
            intervals = views[task.feature_view.name].meta.materialization_intervals
            # An end in the future would make Feast announce ranges that end before they start.
            end = min(make_tzaware(task.end_time), now)
            interval = intervals.add()
            interval.start_time.FromDatetime(min(make_tzaware(task.start_time), end))
            interval.end_time.FromDatetime(end)
            del intervals[:-KEPT_INTERVALS]
        try:
            registry.commit()
            return
        except RegistryConflictError:
            if attempt == attempts - 1:
                raise
