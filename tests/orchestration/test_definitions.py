"""The graph, what is tried again, and what starts a month by itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import date, datetime, timezone
from pathlib import Path

import pytest

from data.database import Database

dg = pytest.importorskip("dagster", reason="extra `orchestration`: make test installs it")


def test_the_graph_leads_from_raw_usage_to_the_api_and_holds_every_dbt_test(
    sample: Database,
) -> None:
    from orchestration.defs import assets
    from orchestration.defs.definitions import defs

    graph = defs.resolve_asset_graph()
    behind = {dg.AssetKey(["raw", "usage"])}
    while more := {c for key in behind for c in graph.get(key).child_keys} - behind:
        behind |= more
    assert {assets.API, assets.TRAINING, dg.AssetKey(["online", "usage_features"])} <= behind
    assert dg.AssetKey(["online", "usage_features"]) in graph.get(assets.API).parent_keys

    manifest = assets.dbt_manifest()
    models = {assets.model_key(i) for i in manifest["nodes"] if i.startswith("model.")}
    assert models <= set(graph.get_all_asset_keys())
    tests = {i for i in manifest["nodes"] if i.startswith("test.")} | set(manifest["unit_tests"])
    assert set(assets.dbt_tests()) == tests
    assert all(spec.group_name and spec.kinds and spec.description for spec in assets.dbt_specs())


def test_only_a_lost_connection_is_tried_again(
    sample: Database, deliver: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the connection is lost, then the file turns out to be bad: two attempts, not four."""
    from orchestration import steps
    from orchestration.defs import assets

    deliver("2024-04-30")
    outcomes = [True, False, False, False]

    def broken(*_: object, **__: object) -> None:
        transient = outcomes.pop(0)
        raise steps.StepError("ingest", "it broke", "make load", transient=transient)

    monkeypatch.setattr(steps, "ingest", broken)
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize(
            [assets.raw], partition_key="2024-04", instance=instance, raise_on_error=False
        )
    assert not done.success
    assert len(outcomes) == 2
    told = [e.step_failure_data.user_failure_data for e in done.all_events if e.is_step_failure]
    assert [t.description for t in told] == ["ingest: it broke | then run: make load"]


def test_the_training_job_writes_the_months_snapshots(
    sample: Database, drops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration.defs.definitions import defs

    monkeypatch.setenv("STREAMFLOW_PROCESSED", str(tmp_path / "processed"))
    job = defs.resolve_job_def("build_training_dataset")
    with dg.DagsterInstance.ephemeral() as instance:
        done = job.execute_in_process(partition_key="2024-03", instance=instance)
        without = job.execute_in_process(
            partition_key="2024-04", instance=instance, raise_on_error=False
        )
    files = sorted(file.name for file in (tmp_path / "processed").iterdir())
    assert files == [f"training_2024-03.{ending}" for ending in ("csv", "json", "parquet")]
    (made,) = done.get_asset_materialization_events()
    assert "2024-03-31" in str(made.materialization.metadata["files"].value)
    assert not without.success  # no labels of that month: it says which job brings them


def test_assets_carry_the_lineage_of_their_columns(sample: Database) -> None:
    from orchestration.defs import assets, column_lineage

    found = column_lineage.models()["model.streamflow.usage_features"]
    deps = found["dagster/column_lineage"].deps_by_column["watch_hours_30d"]
    assert {(dep.asset_key.to_user_string(), dep.column_name) for dep in deps} >= {
        ("staging/stg_usage", "watch_ms"),
        ("staging/stg_usage", "started_at"),
        ("staging/stg_usage_agg", "watch_hours_30d"),
    }
    keys = {spec.key for spec in assets.dbt_specs()} | {spec.key for spec in assets.RAW}
    for of_model in column_lineage.models().values():
        for of_column in of_model["dagster/column_lineage"].deps_by_column.values():
            assert {dep.asset_key for dep in of_column} <= keys
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize([assets.feast_apply], partition_key="2024-03", instance=instance)
    of_views = {
        event.asset_key.path[-1]: event.materialization.metadata["dagster/column_lineage"].value
        for event in done.get_asset_materialization_events()
    }
    [dep] = of_views["usage_features"].deps_by_column["skips_7d"]
    assert dep.asset_key.to_user_string() == "features/usage_features"


def test_the_sensor_asks_once_for_a_settled_drop(
    sample: Database, deliver: Callable[[str], Path]
) -> None:
    """A folder that is still being copied would be loaded in half."""
    from orchestration.defs.definitions import SETTLED, new_drop

    def asked() -> list[dg.RunRequest]:
        with dg.DagsterInstance.ephemeral() as instance:
            context = dg.build_sensor_context(instance=instance)
            found = list(new_drop(context))
        return [request for request in found if isinstance(request, dg.RunRequest)]

    drop = deliver("2024-04-30")
    assert asked() == []  # its files are seconds old
    long_ago = datetime.now(timezone.utc).timestamp() - 2 * SETTLED
    for file in drop.iterdir():
        os.utime(file, (long_ago, long_ago))
    (first,), (again,) = asked(), asked()
    assert first.partition_key == "2024-04"
    assert first.run_key == again.run_key  # one run a key: Dagster starts it once

    (drop / "labels.csv").write_text("user_id,churn_label\n")
    os.utime(drop / "labels.csv", (long_ago, long_ago))
    (corrected,) = asked()
    assert corrected.run_key != first.run_key


def test_a_drop_whose_run_failed_on_an_outage_is_asked_for_again() -> None:
    """Not one that was refused: the same files would fail alike, every half minute."""
    from orchestration.defs.definitions import after_an_outage

    outcomes: list[object] = []

    @dg.op
    def step() -> None:
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome  # type: ignore[misc]

    @dg.job
    def month() -> None:
        step()

    with dg.DagsterInstance.ephemeral() as instance:

        def run(key: str, outcome: object) -> float:
            outcomes.append(outcome)
            tags = {"dagster/run_key": key}
            month.execute_in_process(instance=instance, tags=tags, raise_on_error=False)
            [record] = instance.get_run_records(dg.RunsFilter(tags=tags))
            return record.end_time or 0.0

        lost = dg.Failure("no connection", {"transient": True}, allow_retries=False)
        refused = dg.Failure("bad file", {"transient": False}, allow_retries=False)
        assert after_an_outage(instance, "2024-04:a", 0) == "2024-04:a"
        ended = run("2024-04:a", lost)
        assert after_an_outage(instance, "2024-04:a", ended + 50) == "2024-04:a"
        assert after_an_outage(instance, "2024-04:a", ended + 70) == "2024-04:a+1"
        ended = run("2024-04:a+1", lost)
        assert after_an_outage(instance, "2024-04:a", ended + 70) == "2024-04:a+1"
        assert after_an_outage(instance, "2024-04:a", ended + 130) == "2024-04:a+2"
        ended = run("2024-04:a+2", None)
        assert after_an_outage(instance, "2024-04:a", ended + 9999) == "2024-04:a+2"  # it worked
        ended = run("2024-05:b", refused)
        assert after_an_outage(instance, "2024-05:b", ended + 9999) == "2024-05:b"
        ended = run("2024-06:c", KeyError("a bug"))
        assert after_an_outage(instance, "2024-06:c", ended + 9999) == "2024-06:c"


def test_what_is_served_is_told_of_the_store_that_serves_it(sample: Database) -> None:
    """A store beside it, Redis say, may be a month ahead or behind."""
    from orchestration.defs import checks
    from orchestration.report.report import report

    with sample.connect() as connection:
        connection.execute(
            "insert into ledger.materializations (view_name, store, as_of, publication, end_date,"
            " columns, considered, changed, unchanged, removed, seconds)"
            " select view_name, 'redis localhost:6379', now(), publication, end_date,"
            " columns, 1, 1, 0, 0, 0 from ledger.materializations where store = 'postgres'"
        )
    told = list(checks.fresh.node_def.compute_fn.decorated_fn())  # type: ignore[union-attr]
    assert {check.metadata["as_of"].value[:10] for check in told} == {"2024-03-31"}
    _, month = report(date(2024, 3, 31))
    assert {f"{view.as_of:%Y-%m-%d}" for view in month.views} == {"2024-03-31"}


def test_the_sensor_asks_for_nothing_that_is_online_already(
    sample: Database, sample_drops: Path, deliver: Callable[[str], Path], drops: Path
) -> None:
    """Else its first start after a pipeline would do every month again."""
    from orchestration import steps
    from orchestration.defs.definitions import new_drop

    def asked(cursor: str | None) -> tuple[list[str], str]:
        with dg.DagsterInstance.ephemeral() as instance:
            context = dg.build_sensor_context(instance=instance, cursor=cursor)
            found = list(new_drop(context))
        assert context.cursor
        months = [request.partition_key for request in found if isinstance(request, dg.RunRequest)]
        return [str(month) for month in months], context.cursor

    for drop in sample_drops.iterdir():
        shutil.copytree(drop, drops / drop.name)
    new = deliver("2024-04-30")
    long_ago = datetime(2024, 5, 1).timestamp()
    for file in drops.rglob("*.csv"):
        os.utime(file, (long_ago, long_ago))
    months, cursor = asked(None)
    assert months == ["2024-04"]
    assert asked(cursor) == (months, cursor)  # by the same run key, which Dagster starts once

    steps.ingest(new)
    assert asked(None)[0] == ["2024-04"]  # loaded, and no more than that
    steps.build()
    assert asked(None)[0] == ["2024-04"]
    steps.materialize()
    assert asked(None)[0] == []


def test_the_sensor_waits_for_a_pipeline_that_runs(sample: Database, drops: Path) -> None:
    from orchestration import steps
    from orchestration.defs.definitions import new_drop

    with sample.connect() as pipeline, dg.DagsterInstance.ephemeral() as instance:
        pipeline.execute(f"select pg_advisory_lock({steps.PIPELINE_LOCK})")
        (answer,) = new_drop(dg.build_sensor_context(instance=instance))
    assert isinstance(answer, dg.SkipReason)
    assert "pipeline" in str(answer.skip_message)


def test_runs_that_a_stopped_dagster_left_behind_are_ended() -> None:
    """They would block the queue until a person ends them by hand."""
    from orchestration.defs.left_behind import end_runs

    statuses = {
        dg.DagsterRunStatus.STARTING: dg.DagsterRunStatus.FAILURE,
        dg.DagsterRunStatus.STARTED: dg.DagsterRunStatus.FAILURE,
        dg.DagsterRunStatus.CANCELING: dg.DagsterRunStatus.CANCELED,
        dg.DagsterRunStatus.NOT_STARTED: dg.DagsterRunStatus.NOT_STARTED,
    }

    @dg.job
    def nothing() -> None: ...

    with dg.DagsterInstance.ephemeral() as instance:
        runs = {
            instance.create_run_for_job(nothing, status=status).run_id: after
            for status, after in statuses.items()
        }
        assert len(end_runs(instance)) == 3
        assert {run_id: instance.get_run_by_id(run_id).status for run_id in runs} == runs
        assert end_runs(instance) == []


def test_months(sample: Database) -> None:
    from orchestration.backfill import MonthError, months_of
    from orchestration.defs.definitions import month_before

    assert month_before(datetime(2024, 3, 2, 6)) == "2024-02"
    assert month_before(datetime(2024, 1, 2, 6)) == "2023-12"
    assert months_of("2024-01..2024-03") == ["2024-01", "2024-02", "2024-03"]
    assert months_of("2024-02,2024-01") == ["2024-02", "2024-01"]
    with pytest.raises(MonthError, match="'2023-12' is not one of the months"):
        months_of("2023-12..2024-01")


def test_in_compose_dagster_keeps_its_runs_in_the_projects_postgres(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its webserver and daemon are two containers: what they share must not be a file."""
    from orchestration.defs import dagster_service

    for name in ("host", "port", "user"):
        monkeypatch.setenv(f"STREAMFLOW_PG_{name.upper()}", str(getattr(database, name)))
    monkeypatch.setenv("STREAMFLOW_PG_PASSWORD", database.password.get_secret_value())
    config = Path(dagster_service.__file__).with_name("dagster.compose.yaml")
    (tmp_path / "dagster.yaml").write_text(config.read_text())

    @dg.op
    def step() -> None: ...

    @dg.job
    def one_step() -> None:
        step()

    dagster_service.make_schema()
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert one_step.execute_in_process(instance=instance).success
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled
    with database.connect() as connection:
        found = connection.execute("select pipeline_name, status from dagster.runs").fetchall()
    assert found == [("one_step", "SUCCESS")]
