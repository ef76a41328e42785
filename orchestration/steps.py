"""The steps from a raw drop to a served feature, one plain function each.

The Makefile calls them one by one, `pipeline` in order, Dagster as assets. Each may be run again
at any time: what is already done is not done twice. A step that fails raises `StepError`, whose
text is one line: the step, what failed, and the command to run once that is repaired.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data import errors
from data.database import Database
from data.paths import DBT_PROJECT, FEATURE_REPO, PROCESSED, ROOT, code_version
from data.target import target as target_of_dbt
from orchestration.lineage.events import emitted
from orchestration.shown import Progress, WithoutFeastsDates
from orchestration.surroundings import environment, inside
from orchestration.told import StepError, one_line, repaired, say, told_as

if TYPE_CHECKING:
    from data.load.load import LoadResult
    from streamflow_feast.materialize.audit import AuditResult

ERASURE_LOCK = "hashtext('streamflow erasure')"  # shared by who writes what was read before
PIPELINE_LOCK = "hashtext('streamflow pipeline')"  # held while a folder of drops goes through


FAILED = ("error", "fail", "runtime error")  # dbt's words


@dataclass(frozen=True)
class BuildResult:
    """What a `dbt build` did: steps by status, and rows appended by table once published."""

    invocation_id: str
    known_at: datetime
    statuses: dict[str, int]
    rows_appended: dict[str, int]
    warnings: list[str]
    seconds: dict[str, float]  # of each model, by dbt's unique_id


def ingest(
    folder: Path | str, *, quarantine: bool = False, show: Callable[[str], None] = say
) -> LoadResult:
    """Check and load one drop in one transaction; the same drop again changes nothing.

    `show` gets the table of what was read, added, repeated and retracted. With `quarantine` rows
    with an error are left out, and written to data/processed/refused with the reasons.

    Raises:
        StepError: the drop was refused (its cause, a `DropError`, has every error).
    """
    from data.target import load

    repair = f"make load DROP={folder}"
    with told_as("ingest", repair), emitted("ingest") as run:
        result = load(folder, quarantine=PROCESSED / "refused" if quarantine else None)
        run.tells(_datasets("of_ingest"), result)
    show(str(result))
    return result


def build(*, show: Callable[[str], None] = say, **variables: object) -> BuildResult:
    """As `_build`, with its events."""
    with emitted("build", _datasets("of_tests")) as run:
        built = _build(show=show, **variables)
        run.tells(_datasets("of_build"), built.rows_appended)
    return built


def _datasets(name: str) -> Callable[..., Any]:
    """A function of orchestration/lineage/datasets.py, which is imported when it is called."""

    def call(*about: Any) -> Any:
        from orchestration.lineage import datasets

        return getattr(datasets, name)(*about)

    return call


def _build(*, show: Callable[[str], None] = say, **variables: object) -> BuildResult:
    """Run `dbt build`, which also publishes when every test passed.

    `variables` are dbt's: recompute (bool), cadence (drops, month, week, day), allow_leaving
    (users). `show` gets a line for each finished table, for each warning, and for the outcome.

    Raises:
        StepError: a model or test failed, so that nothing was published.
    """
    from dbt.cli.main import dbtRunner

    progress = Progress(show)
    with _one_build_at_a_time(show), environment(STREAMFLOW_CODE_VERSION=code_version()):
        outcome = dbtRunner(callbacks=[progress]).invoke(
            [
                "--quiet", "--no-use-colors", "build",
                "--project-dir", str(DBT_PROJECT),
                "--profiles-dir", str(DBT_PROJECT),
                "--vars", json.dumps(variables),
            ]
        )  # fmt: skip
    nodes = getattr(outcome.result, "results", None)
    if not nodes:  # a selection or project without a node would count as success
        reason = str(outcome.exception or "dbt ran nothing")
        told = errors.of_text(reason)
        again = bool(told and told.transient)
        what = str(told or reason)
        raise StepError("build", what, repaired(told, "make build"), transient=again)
    statuses = Counter(str(node.status) for node in nodes)
    if not outcome.success:
        what = progress.verdict or _failures(nodes)
        # Of several failures the one that a retry does not help decides.
        failed = [errors.of_text(str(n.message)) for n in nodes if str(n.status) in FAILED]
        told = min(failed, key=lambda found: bool(found and found.transient), default=None)
        again = bool(told and told.transient)
        what = f"nothing was published: {what}"
        raise StepError("build", what, repaired(told, "make build"), transient=again)
    if target_of_dbt() == "spark":
        from streamflow_feast.lake.ledger import mirrored

        mirrored()
    with Database().connect() as connection:
        row = connection.execute(
            "select known_at, rows_appended from ledger.publications where invocation_id = %s",
            [progress.invocation_id],
        ).fetchone()
    if row is None:
        what = progress.verdict or "dbt finished and yet the ledger has no publication of it"
        raise StepError("build", f"nothing was published: {what}", "make build")
    tests = sum(node.node.resource_type in ("test", "unit_test") for node in nodes)
    show(f"  published as known at {row[0]:%Y-%m-%d %H:%M:%S} UTC: {tests} tests passed")
    seconds = {
        node.node.unique_id: node.execution_time
        for node in nodes
        if node.node.resource_type == "model"
    }
    return BuildResult(
        progress.invocation_id, row[0], dict(statuses), row[1], progress.warnings, seconds
    )


def plan(*, show: Callable[[str], None] = say, **variables: object) -> None:
    """Say what `build` would compute and change, by `dbt run-operation plan`; writes nothing."""
    from dbt.cli.main import dbtRunner

    if target_of_dbt() == "spark":
        raise StepError("plan", "a plan asks Postgres alone", "make build TARGET=spark")

    def note(event: Any) -> None:
        if event.info.name == "JinjaLogInfo":
            show(event.info.msg)

    outcome = dbtRunner(callbacks=[note]).invoke(
        [
            "--quiet", "--no-use-colors", "run-operation", "plan",
            "--project-dir", str(DBT_PROJECT), "--profiles-dir", str(DBT_PROJECT),
            "--vars", json.dumps(variables),
        ]
    )  # fmt: skip
    if not outcome.success:
        results = getattr(outcome.result, "results", None) or []
        reasons = [str(result.message) for result in results if result.message]
        raise StepError("plan", "; ".join(reasons) or str(outcome.exception), "make plan")


@contextlib.contextmanager
def _one_build_at_a_time(show: Callable[[str], None]) -> Iterator[None]:
    """Wait for a build of another run; dbt's own start hook would refuse this one.

    The lock is that of a session: it ends with this process, however that ends.
    """
    with told_as("build", "make build"), contextlib.ExitStack() as stack:
        lock = stack.enter_context(Database().connect(application_name="streamflow build lock"))
        lock.autocommit = True
        taken = lock.execute("select pg_try_advisory_lock(hashtext('streamflow build step'))")
        if taken.fetchone() == (False,):
            show("  another build is running: waiting for it to end")
            lock.execute("select pg_advisory_lock(hashtext('streamflow build step'))")
        yield


def _failures(nodes: list[Any]) -> str:
    failed = [node for node in nodes if str(node.status) in FAILED]
    names = [f"{node.node.name} ({one_line(node.message)})" for node in failed]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} failed: {', '.join(names[:3])}{more}"


def apply() -> None:
    """What `feast apply` does: bring registry and online tables to what the dbt project defines."""
    from feast.repo_config import load_repo_config
    from feast.repo_operations import apply_total

    with told_as("apply", "make build apply"), inside(FEATURE_REPO):
        repo = Path.cwd()
        config = load_repo_config(repo, repo / "feature_store.yaml")
        apply_total(config, repo, skip_source_validation=False)


def materialize(end_date: datetime | None = None, *, full: bool = False) -> None:
    """What `feast materialize-incremental <end_date>` does; the default is now.

    With `full`, every row that is online is compared, and not only what was published since the
    last run: `feast materialize <long ago> <end_date>`. It repairs what something else changed.
    """
    with told_as("materialize", "make materialize"), emitted("materialize") as run:
        store = _store()
        if not store.list_feature_views():
            raise StepError(
                "materialize", "Feast knows no feature view yet", "make apply materialize"
            )
        with contextlib.redirect_stdout(WithoutFeastsDates(sys.stdout)):
            end = end_date or datetime.now(timezone.utc)
            if full:
                store.materialize(datetime(1970, 1, 1, tzinfo=timezone.utc), end)
            else:
                store.materialize_incremental(end)
        run.tells(_datasets("of_materialize"))


def _store() -> Any:
    from feast import FeatureStore

    return FeatureStore(repo_path=str(FEATURE_REPO))


def audit() -> list[AuditResult]:
    """Compare every online value with its offline one; a difference is an error."""
    from streamflow_feast.materialize.audit import audit as compare

    repair = "make materialize FULL=1 && make audit"
    with told_as("audit", repair):
        results = compare()
    say(f"  online equals offline: {sum(result.compared for result in results):,} rows compared")
    return results


def training_set(as_of: Sequence[str] = (), labels: str | None = None, **options: Any) -> Any:
    """Write features and labels of the snapshots, or of rows of one's own, to data/processed."""
    from streamflow_feast.training.own_labels import write_for_labels
    from streamflow_feast.training.training_set import write_training_set

    options_of_labels = {k: v for k, v in options.items() if k != "keep_unlabelled"}
    asked = f"AS_OF={','.join(as_of)}" if labels is None else "LABELS=<file>"
    with (
        told_as("training-set", f"make training-set {asked}"),
        emitted("training_set") as run,
        _no_erasure_meanwhile(),
    ):
        written = (
            write_training_set(as_of, **options)
            if labels is None
            else write_for_labels(labels, **options_of_labels)  # who brings rows has chosen them
        )
        run.tells(_datasets("of_training_set"), written)
    return written


@contextlib.contextmanager
def _no_erasure_meanwhile() -> Iterator[None]:
    """An erasure waits for this, and looks for the files afterwards; or this waits for it."""
    with Database().connect(application_name="streamflow training set lock") as lock:
        lock.autocommit = True
        lock.execute(f"select pg_advisory_lock_shared({ERASURE_LOCK})")
        yield


def vector(user_id: str, service: str = "all_features") -> dict[str, Any]:
    """One user's online features by name, read through Feast."""
    from data.contract import USER, is_user_id
    from data.load.check import show

    if not is_user_id(user_id):
        what = f"{show(user_id)} is no user id: expected {USER.expected}"
        raise StepError("vector", what, "make vector USER=<user id>")
    with told_as("vector", "make apply materialize"):
        store = _store()
        answer = store.get_online_features(
            features=store.get_feature_service(service), entity_rows=[{"user_id": user_id}]
        ).to_dict()
    return {name: values[0] for name, values in sorted(answer.items())}


def docs() -> Path:
    """dbt's documentation as one page that opens offline; where it is."""
    from dbt.cli.main import dbtRunner

    project = ["--project-dir", str(DBT_PROJECT), "--profiles-dir", str(DBT_PROJECT)]
    outcome = dbtRunner().invoke(["--quiet", "docs", "generate", "--static", *project])
    if not outcome.success:
        raise StepError("docs", str(outcome.exception or "dbt docs generate failed"), "make docs")
    page = target() / "static_index.html"
    say(f"  {page}")
    return page


def target() -> Path:
    """Where dbt puts what it makes; a relative DBT_TARGET_PATH is one inside of dbt_project."""
    from streamflow_feast.dbt.manifest import target_path

    return target_path(ROOT)


def drops(folder: Path) -> list[Path]:
    """The drop folders in `folder`, oldest first."""
    return sorted(drop for drop in folder.glob("????-??-??") if drop.is_dir())


def pipeline(drops: Sequence[Path | str] = (), as_of: Sequence[str] = ()) -> None:
    """All steps in order: load the drops, if any, through to audited online features.

    With `as_of`, the training set of those snapshots as well.
    """
    for drop in drops:
        ingest(drop)
    build()
    apply()
    materialize()
    audit()
    if as_of:
        say(str(training_set(as_of)))


def pipeline_over(folder: Path, as_of: Sequence[str] = ()) -> None:
    """`pipeline` with every drop in `folder`: what a deployment does at its start.

    A refused drop keeps the others from nothing: they are loaded, built and published first.

    Raises:
        StepError: also when all else went well and a drop was refused.
    """
    found = drops(folder)
    if not found:
        say(f"  no drop in {folder}: nothing to do. Copy drops there, named after their dates, or"
            " invent some with: python -m data generate")  # fmt: skip
        return
    refused = []
    with told_as("pipeline", "make pipeline"), Database().connect() as connection:
        connection.autocommit = True  # a lock of the session: it ends with this process
        connection.execute(f"select pg_advisory_lock({PIPELINE_LOCK})")
        for drop in found:
            try:
                ingest(drop)
            except StepError as error:
                if error.transient:
                    raise
                say(f"  {drop.name} is refused\n{error.__cause__}")
                refused.append(drop.name)
        if len(refused) < len(found):
            pipeline((), as_of)
    if refused:
        names = ", ".join(refused)
        what = f"{len(refused)} of {len(found)} drops refused: {names}; correct them as said above"
        raise StepError("ingest", what, "make pipeline")
