"""What Dagster loads: assets, checks, jobs, and what starts them. `make dagster` shows it.

One run at a time is the instance's setting (dagster.yaml); beyond Dagster, the steps themselves
wait for each other in the database.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg

from data.database import Database
from data.target import last_load
from orchestration import steps
from orchestration.defs import assets, checks

# A run that is tried again (run_retries in dagster.yaml: after its process was killed) begins at
# its beginning; what the first attempt has done is not done twice.
AGAIN = {"dagster/retry_strategy": "ALL_STEPS"}

ingest_month = dg.define_asset_job(
    "ingest_month",
    tags=AGAIN,
    selection=dg.AssetSelection.all() - dg.AssetSelection.assets(assets.TRAINING),
    partitions_def=assets.MONTHS,
    description="The drops of one month, from the folder all the way to audited online features.",
)
build_training_dataset = dg.define_asset_job(
    "build_training_dataset",
    tags=AGAIN,
    selection=dg.AssetSelection.assets(assets.TRAINING),
    partitions_def=assets.MONTHS,
    description="Features and labels of the month's snapshots, as files.",
)
check_freshness = dg.define_asset_job(
    "check_freshness",
    tags=AGAIN,
    selection=dg.AssetSelection.checks_for_assets(
        *[dg.AssetKey(["online", name]) for name in assets.views()]
    )
    & dg.AssetSelection.checks(*[spec.key for spec in checks.fresh.check_specs]),
    description="Is what is served still fresh? Also asked when no drop comes any more.",
)

# Switched on in Dagster's page, by a person; in production from the start.
AUTOMATIC = os.environ.get("STREAMFLOW_AUTOMATION") == "on"
ON = dg.DefaultSensorStatus.RUNNING if AUTOMATIC else dg.DefaultSensorStatus.STOPPED
SCHEDULED = dg.DefaultScheduleStatus.RUNNING if AUTOMATIC else dg.DefaultScheduleStatus.STOPPED

SETTLED = 30  # seconds without a change, after which a drop is taken to be copied whole


@dg.sensor(job=ingest_month, minimum_interval_seconds=30, default_status=ON)
def new_drop(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """A run for each month with a drop folder that is new, or whose files changed.

    The cursor holds each month's fingerprint once it was dealt with. What something else has
    loaded and published (the pipeline of a deployment, `make demo`) is not asked for again.
    """
    if _pipeline_runs():
        yield dg.SkipReason("the pipeline is loading what is there")
        return
    dealt_with: dict[str, str] = json.loads(context.cursor or "{}")
    months = sorted({drop.name[:7] for drop in assets.drops_folder().glob("????-??-??")})
    asked = False
    for month in months:
        drops = assets.drops_of(month)
        newest = max((file.stat().st_mtime for drop in drops for file in _files(drop)), default=0)
        if not drops or not newest or time.time() - newest < SETTLED:
            continue
        seen = fingerprint(drops)
        if dealt_with.get(month) == seen:
            continue
        if month not in assets.MONTHS.get_partition_keys():
            context.log.warning(f"{month} lies outside of the partitions; not ingested")
            continue
        # Dagster starts one run a key, ever: the same files again ask for nothing.
        key = after_an_outage(context.instance, f"{month}:{seen}", time.time())
        succeeded = dg.RunsFilter(
            tags={"dagster/run_key": key}, statuses=[dg.DagsterRunStatus.SUCCESS]
        )
        if context.instance.get_runs_count(succeeded) or online_already(drops):
            dealt_with[month] = seen
            continue
        asked = True
        yield dg.RunRequest(run_key=key, partition_key=month)
    context.update_cursor(json.dumps(dealt_with))
    if not asked:
        yield dg.SkipReason(f"nothing new that is settled in {assets.drops_folder()}")


def _pipeline_runs() -> bool:
    """Whether `pipeline --drops` is at work, in whatever process."""
    with Database().connect() as connection:
        free = connection.execute(f"select pg_try_advisory_xact_lock({steps.PIPELINE_LOCK})")
        return free.fetchone() == (False,)


def online_already(drops: list[Path]) -> bool:
    """Whether these very files are loaded, published, and materialized into every view."""
    loads = [last_load(drop) for drop in drops]
    if None in loads:
        return False
    with Database().connect() as connection:
        materialized = connection.execute(
            "select distinct on (view_name) view_name, load_to from ledger.materializations m"
            " join ledger.publications p on p.known_at = m.publication"
            " where store = 'postgres' order by view_name, materialization_id desc"
        ).fetchall()
    up_to: dict[str, int] = dict(materialized)
    return all(up_to.get(view, -1) >= max(filter(None, loads)) for view in assets.views())


def after_an_outage(instance: dg.DagsterInstance, key: str, now: float) -> str:
    """The run key to ask for: another one where the last run of `key` failed on an outage.

    Not at once, and ever more rarely: after a minute, then twice as long, an hour at most. What
    failed for another reason is not asked for again: the same files would fail alike.
    """
    again, last = 0, None
    while runs := instance.get_run_records(dg.RunsFilter(tags={"dagster/run_key": key}), limit=1):
        last, asked = runs[0], key
        again += 1
        key = f"{asked.partition('+')[0]}+{again}"
    if last is None:
        return key
    ended = last.end_time or now
    waited = now - ended >= min(60 * 2 ** (again - 1), 3600)
    failed = last.dagster_run.status == dg.DagsterRunStatus.FAILURE
    return key if failed and waited and _on_an_outage(instance, last.dagster_run.run_id) else asked


def _on_an_outage(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether every step that failed said that the same may work in a moment.

    A run in which no step failed was cut off itself, as by a restart.
    """
    failures = instance.get_records_for_run(
        run_id, of_type=dg.DagsterEventType.STEP_FAILURE
    ).records
    said = [
        record.event_log_entry.dagster_event.step_failure_data.user_failure_data  # type: ignore
        for record in failures
    ]
    return all(
        data is not None
        and (flag := data.metadata.get("transient")) is not None
        and flag.value is True
        for data in said
    )


def _files(drop: Path) -> list[Path]:
    return sorted(file for file in drop.iterdir() if not file.name.startswith("."))


def fingerprint(drops: list[Path]) -> str:
    """Names, sizes and times of the files: another one means that something was delivered."""
    seen = hashlib.sha256()
    for drop in drops:
        for file in _files(drop):
            about = file.stat()
            seen.update(f"{drop.name}/{file.name} {about.st_size} {about.st_mtime_ns}\n".encode())
    return seen.hexdigest()[:16]


@dg.schedule(
    job=ingest_month,
    cron_schedule="0 6 2 * *",
    execution_timezone="UTC",
    default_status=SCHEDULED,
)
def monthly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """On the 2nd, the month before: a drop that never came is a failed run, and so is noticed."""
    month = month_before(context.scheduled_execution_time)
    return dg.RunRequest(run_key=month, partition_key=month)


def month_before(day: datetime) -> str:
    """2024-03-02 -> 2024-02."""
    return f"{day.replace(day=1) - timedelta(days=1):%Y-%m}"


@dg.schedule(
    job=check_freshness,
    cron_schedule="0 7 * * *",
    execution_timezone="UTC",
    default_status=SCHEDULED,
)
def daily_freshness(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    return dg.RunRequest(run_key=f"{context.scheduled_execution_time:%Y-%m-%d}")


defs = dg.Definitions(
    assets=[
        assets.raw,
        assets.dbt_build,
        assets.feast_apply,
        assets.online_store,
        assets.features_api,
        assets.training_set,
    ],
    asset_checks=[checks.audit, checks.drifted, checks.fresh],
    jobs=[ingest_month, build_training_dataset, check_freshness],
    sensors=[new_drop],
    schedules=[monthly, daily_freshness],
    executor=dg.in_process_executor,  # dbt and Feast take seconds to import: once a run is enough
)
