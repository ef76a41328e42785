"""The steps as Dagster assets: raw tables, dbt's models, Feast's views, the online store.

Each asset function calls one function of orchestration/steps.py. dbt runs as a whole and in this
process: only a complete `dbt build` publishes, so there is no subset to choose. All assets are
partitioned by the month of `as_of`; a month may have several drops.
"""

# Not `from __future__ import annotations`: Dagster looks at the type of `context`.

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_dbt import build_dbt_asset_specs
from psycopg.rows import namedtuple_row

from data.contract import declared
from data.database import Database
from data.paths import DBT_PROJECT, DROPS, PROCESSED
from orchestration import steps
from orchestration.catalogue.command import refresh
from orchestration.defs import column_lineage
from orchestration.lineage.sql import LineageError
from streamflow_feast.dbt.manifest import FeatureTable, Manifest, manifest_path, parse_manifest

MONTHS = dg.MonthlyPartitionsDefinition(start_date="2024-01", fmt="%Y-%m", end_offset=1)
API = dg.AssetKey(["serving", "features_api"])
TRAINING = dg.AssetKey(["training", "training_set"])

# Only a StepError that says so is tried again: a lost connection may come back, a bad file or a
# failed test will not.
RETRY = dg.RetryPolicy(max_retries=3, delay=2, backoff=dg.Backoff.EXPONENTIAL)


def drops_folder() -> Path:
    """Where drops arrive: STREAMFLOW_DROPS, default data/drops."""
    return Path(os.environ.get("STREAMFLOW_DROPS") or DROPS).resolve()


def processed_folder() -> Path:
    """Where training sets go: STREAMFLOW_PROCESSED, default data/processed."""
    return Path(os.environ.get("STREAMFLOW_PROCESSED") or PROCESSED)


def drops_of(month: str) -> list[Path]:
    """The drop folders of a month (2024-01), oldest first."""
    return sorted(drop for drop in drops_folder().glob(f"{month}-??") if drop.is_dir())


@contextmanager
def told() -> Iterator[None]:
    """A step's error is one line in the run's log; whether to try again is the step's word."""
    try:
        yield
    except steps.StepError as error:
        about: dict[str, Any] = {"then_run": error.repair, "transient": error.transient}
        raise dg.Failure(str(error), about, allow_retries=error.transient) from error


@cache
def dbt_manifest() -> Mapping[str, Any]:
    """dbt's manifest, made anew when it is missing or older than a file of the project."""
    path = manifest_path()
    made = path.stat().st_mtime if path.exists() else 0
    sources = [f for e in ("sql", "yml", "md") for f in DBT_PROJECT.rglob(f"*.{e}")]
    made_by_dbt = (path.parent, DBT_PROJECT / "target", DBT_PROJECT / "logs")
    if made < max(
        f.stat().st_mtime
        for f in sources
        if not any(f.is_relative_to(folder) for folder in made_by_dbt)
    ):
        from dbt.cli.main import dbtRunner

        project = [
            "--project-dir",
            str(DBT_PROJECT),
            "--profiles-dir",
            str(DBT_PROJECT),
        ]
        done = dbtRunner().invoke(["--quiet", "parse", *project])
        if not done.success:
            raise RuntimeError(f"dbt cannot read the project: {done.exception}")
    content: Mapping[str, Any] = json.loads(path.read_text())
    return content


@cache
def feast_manifest() -> Manifest:
    """The feature tables and services that Feast gets."""
    return parse_manifest(dbt_manifest())


def model_key(unique_id: str) -> dg.AssetKey:
    """A model's asset: features/usage_features."""
    node = dbt_manifest()["nodes"][unique_id]
    return dg.AssetKey([node["schema"], node["name"]])


def _columns(table: FeatureTable) -> list[str]:
    return [*table.entity.keys, *(column.name for column in table.columns)]


def views() -> list[str]:
    return [table.name for table in feast_manifest().tables]


# --- raw ----------------------------------------------------------------------------------------

RAW = [
    dg.AssetSpec(
        ["raw", table.name],
        group_name="raw",
        kinds={"csv", "postgres"},
        partitions_def=MONTHS,
        description=table.meaning,
    )
    for table in declared()
] + [
    dg.AssetSpec(
        ["raw", "loads"],
        group_name="raw",
        kinds={"postgres"},
        partitions_def=MONTHS,
        description="The ledger of drops: one row a load and table.",
    )
]


@dg.multi_asset(name="raw", specs=RAW, retry_policy=RETRY)
def raw(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
    """Check and load the month's drops."""
    month = context.partition_key
    drops = drops_of(month)
    if not drops:
        raise dg.Failure(
            f"ingest: there is no drop of {month} in {drops_folder()} | then run: copy it there,"
            " and this month again",
            allow_retries=False,
        )
    counts: dict[str, dict[str, int]] = {table.name: {} for table in declared()}
    with told():
        for drop in drops:
            loaded = steps.ingest(drop, show=context.log.info)
            for name, table in loaded.tables.items():
                for figure in ("read", "added", "repeated", "retracted"):
                    figures = counts[name]
                    figures[figure] = figures.get(figure, 0) + getattr(table, figure)
    for name, figures in counts.items():
        total = {"dagster/partition_row_count": figures.get("read", 0)}
        yield dg.MaterializeResult(asset_key=["raw", name], metadata={**figures, **total})
    yield dg.MaterializeResult(
        asset_key=["raw", "loads"], metadata={"drops": ", ".join(drop.name for drop in drops)}
    )


# --- dbt ----------------------------------------------------------------------------------------


def dbt_specs() -> list[dg.AssetSpec]:
    """dbt's models as it names them, in the groups of its layers."""
    return [
        spec.replace_attributes(
            group_name="features" if spec.key.path[0] == "features" else "staging",
            partitions_def=MONTHS,
        )
        for spec in build_dbt_asset_specs(manifest=dbt_manifest())
    ]


def dbt_tests() -> dict[str, dg.AssetCheckSpec]:
    """Every data and unit test as a check of the model it looks at, by dbt's unique_id."""
    manifest = dbt_manifest()
    tests = [n for n in manifest["nodes"].values() if n["resource_type"] == "test"]
    found = {}
    for test in [*tests, *manifest.get("unit_tests", {}).values()]:
        models = [n for n in test["depends_on"]["nodes"] if n.startswith("model.")]
        model = test.get("attached_node") or (models[-1] if models else None)
        if model and model in manifest["nodes"]:
            found[test["unique_id"]] = dg.AssetCheckSpec(
                name=test["name"], asset=model_key(model), description=test.get("description")
            )
    return found


@dg.multi_asset(
    name="dbt_build",
    specs=dbt_specs(),
    check_specs=list(dbt_tests().values()),
    retry_policy=RETRY,
)
def dbt_build(
    context: dg.AssetExecutionContext,
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Build all features, test them, and publish them when every test passed."""
    began = datetime.now(timezone.utc)
    built: steps.BuildResult | None = None
    failure: dg.Failure | None = None
    try:
        with told():
            built = steps.build(show=context.log.info)
    except dg.Failure as error:
        failure = error
    yield from check_results(test_results(began), everything=failure is None)
    if failure is not None or built is None:
        raise failure or RuntimeError("dbt build gave nothing")
    rows = _rows_of(context.partition_key)
    try:
        lineage = column_lineage.models()
    except LineageError as error:  # published all the same; `make lineage` says so too
        context.log.warning(f"no column lineage: {error}")
        lineage = {}
    for unique_id, seconds in built.seconds.items():
        key = model_key(unique_id)
        metadata: dict[str, Any] = {"seconds": round(seconds, 2), **lineage.get(unique_id, {})}
        if key.path[0] == "features":
            metadata |= {
                "dagster/partition_row_count": rows.get(key.path[1], 0),
                "versions_appended": built.rows_appended.get(key.path[1], 0),
                "publication": built.known_at.isoformat(),
                "dbt_invocation": built.invocation_id,
            }
        yield dg.MaterializeResult(asset_key=key, metadata=metadata)


def test_results(since: datetime) -> dict[str, Any]:
    """What each test of the build that began since then said, by unique_id; published or not."""
    with Database().connect() as connection:
        rows: list[Any] = (
            connection.cursor(row_factory=namedtuple_row)
            .execute(
                "select tests.* from ledger.tests inner join ledger.builds using (invocation_id)"
                " where started_at >= %s",
                [since],
            )
            .fetchall()
        )
        return {row.test_id: row for row in rows}


def check_results(results: Mapping[str, Any], *, everything: bool) -> Iterator[dg.AssetCheckResult]:
    """What each test said. One that did not run says nothing, unless all should have run."""
    for unique_id, spec in dbt_tests().items():
        result = results.get(unique_id)
        if result is None or result.status == "skipped":
            if everything:
                raise RuntimeError(f"dbt did not run {unique_id}, and yet says that all went well")
            continue
        status = result.status
        yield dg.AssetCheckResult(
            asset_key=spec.asset_key,
            check_name=spec.name,
            passed=status in ("pass", "success"),
            severity=dg.AssetCheckSeverity.WARN
            if status == "warn"
            else dg.AssetCheckSeverity.ERROR,
            metadata={"rows": result.failures, "message": result.message},
        )


def month_bounds(month: str) -> tuple[datetime, datetime]:
    """First instant of a month (2024-01), and of the next."""
    first = datetime.strptime(month, "%Y-%m").replace(tzinfo=timezone.utc)
    return first, (first + timedelta(days=32)).replace(day=1)


def _rows_of(month: str) -> dict[str, int]:
    """Feature table -> published rows with an as_of of that month."""
    tables = [*views(), "churn_labels"]
    query = " union all ".join(
        f"select '{t}', count(*) from published.{t}_latest where as_of >= %s and as_of < %s"
        for t in tables
    )
    with Database().connect() as connection:
        return dict(connection.execute(query, [*month_bounds(month)] * len(tables)).fetchall())


# --- Feast --------------------------------------------------------------------------------------


@dg.multi_asset(
    name="feast_apply",
    specs=[
        dg.AssetSpec(
            ["feast", table.name],
            deps=[["features", table.name]],
            group_name="feast",
            kinds={"feast"},
            partitions_def=MONTHS,
            description=f"Feature view. {table.description}",
            metadata={"features": [column.name for column in table.columns]},
        )
        for table in feast_manifest().tables
    ],
    retry_policy=RETRY,
)
def feast_apply() -> Iterator[dg.MaterializeResult]:
    """`feast apply`: feature views and services from dbt's manifest."""
    with told():
        steps.apply()
    for table in feast_manifest().tables:
        of = column_lineage.passed_on(["features", table.name], _columns(table))
        yield dg.MaterializeResult(asset_key=["feast", table.name], metadata=of)


@dg.multi_asset(
    name="online_store",
    specs=[
        dg.AssetSpec(
            ["online", name],
            deps=[["feast", name], ["features", name]],
            group_name="online",
            kinds={"feast", "postgres"},
            partitions_def=MONTHS,
            description="One typed row a user: what the API reads.",
        )
        for name in views()
    ],
    retry_policy=RETRY,
)
def online_store() -> Iterator[dg.MaterializeResult]:
    """`feast materialize-incremental`: what was published since the last time, by user."""
    with told():
        steps.materialize()
        refresh()
    columns = {table.name: _columns(table) for table in feast_manifest().tables}
    with Database().connect() as connection:
        rows = connection.execute(
            "select distinct on (view_name) view_name, as_of, publication, considered, changed,"
            " unchanged, removed from ledger.materializations where store = 'postgres'"
            " order by view_name, materialization_id desc"
        ).fetchall()
    for name, as_of, publication, considered, changed, unchanged, removed in rows:
        if name in views():
            yield dg.MaterializeResult(
                asset_key=["online", name],
                metadata={
                    "as_of": as_of.isoformat() if as_of else "none",
                    "publication": publication.isoformat(),
                    "dagster/row_count": changed + unchanged,
                    "considered": considered,
                    "changed": changed,
                    "removed": removed,
                    **column_lineage.passed_on(["feast", name], columns[name]),
                },
            )


features_api = dg.AssetSpec(
    API,
    deps=[["online", name] for name in views()],
    group_name="serving",
    kinds={"fastapi"},
    description="GET /features/{user_id}: reads the online store, runs on its own (make serve).",
)


@dg.asset(
    key=TRAINING,
    deps=[*[["feast", name] for name in views()], ["features", "churn_labels"]],
    group_name="training",
    kinds={"feast", "parquet"},
    partitions_def=MONTHS,
    retry_policy=RETRY,
)
def training_set(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Point-in-time features and labels of the month's snapshots, as CSV and parquet."""
    month = context.partition_key
    with Database().connect() as connection:
        labelled = connection.execute(
            "select distinct as_of from published.churn_labels_latest"
            " where as_of >= %s and as_of < %s order by 1",
            month_bounds(month),
        ).fetchall()
    if not labelled:
        raise dg.Failure(
            f"training-set: no labels are published for {month} | then run: the job ingest_month"
            f" of {month}",
            allow_retries=False,
        )
    with told():
        written = steps.training_set(
            [f"{as_of:%Y-%m-%d}" for (as_of,) in labelled],
            name=f"training_{month}",
            out=processed_folder(),
        )
    return dg.MaterializeResult(metadata={"files": dg.MetadataValue.md(f"```\n{written}\n```")})
