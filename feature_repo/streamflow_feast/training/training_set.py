"""Training sets: features and labels of one snapshot or of many, the same bytes every time.

`make training-set AS_OF=2024-01-31` writes three files to data/processed:

    training_df.csv      for people and other tools: True/False, empty for null, ISO 8601 in UTC
    training_df.parquet  the same table with its types
    training_df.json     what it is: as_of, known_at, publication, features, counts, sha256

A row is a user at an `as_of`, its features as of that instant, and the label observed then. All of
it is read as one publication knew it, so that the same request with the same --known-at gives the
same bytes after any later correction. No file holds the time at which it was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureService, FeatureView
from feast.errors import FeastObjectNotFoundException, RequestDataNotFoundInEntityDfException
from feast.feature_view_projection import FeatureViewProjection
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.on_demand_feature_view import OnDemandFeatureView

from data.database import Database
from data.paths import FEATURE_REPO, PROCESSED, code_version
from streamflow_feast.dbt.feast_objects import feast_objects
from streamflow_feast.dbt.manifest import Manifest
from streamflow_feast.dbt.publications import published_manifest, require_answer
from streamflow_feast.offline import point_in_time
from streamflow_feast.offline import store as offline_store
from streamflow_feast.offline.entity_frame import UTC
from streamflow_feast.offline.store import as_known_at
from streamflow_feast.training import files as training_files
from streamflow_feast.training.snapshots import (
    LABEL,
    bring_publications,
    snapshots_there,
    users_and_labels,
)


class TrainingSetError(ValueError):
    """The set cannot be made; the text says why and which command helps."""


@dataclass(frozen=True)
class Publication:
    """The published state that a set is made from."""

    known_at: datetime
    invocation_id: str
    code_version: str

    def told(self) -> dict[str, str]:
        """As the manifest of a set has it."""
        return {
            "known_at": iso(self.known_at),
            "dbt_invocation_id": self.invocation_id,
            "code_version": self.code_version,
        }


@dataclass(frozen=True)
class TrainingSet:
    """What was written. Counts are rows; `labels` counts true, false and null."""

    table: pa.Table
    manifest: dict[str, Any]
    files: list[Path]

    def __str__(self) -> str:
        lines = []
        for name, n in self.manifest["snapshots"].items():
            left_out = f", {n['left_out']:,} without a label left out" if n["left_out"] else ""
            unknown = f", {n['unlabelled']:,} without a label" if n["unlabelled"] else ""
            lines.append(f"{name}: {n['rows']:,} rows, {n['churned']:,} churned{unknown}{left_out}")
        if len(lines) != 1:
            lines.append(f"in all: {self.manifest['rows']:,} rows")
        known_at = self.manifest["publication"]["known_at"]
        names = ", ".join(file.name for file in self.files)
        return "\n".join([*lines, f"as known at {known_at}: {names} in {self.files[0].parent}"])


def write_training_set(
    as_of: str | datetime | Sequence[str | datetime],
    known_at: str | datetime | None = None,
    service: str = "churn_v1",
    keep_unlabelled: bool = False,
    out: Path = PROCESSED,
    name: str = "training_df",
) -> TrainingSet:
    """Make the set and write its files; what was there under these names is replaced.

    Args:
        as_of: instants or dates (midnight UTC), or text: "2024-01-31", "2024-01-31,2024-02-29",
            or "2024-01-31..2024-06-30" for every snapshot in between, both ends included.
        known_at: use what was published by then; default: the newest publication.
        keep_unlabelled: also the users of the snapshot whose label is unknown.

    Raises:
        TrainingSetError: see the class.
    """
    with Database().connect() as connection:
        publication = resolve_known_at(connection, instant_of(known_at) if known_at else None)
        snapshots = _snapshots(connection, as_of, publication, keep_unlabelled)
        entities = users_and_labels(connection, snapshots, publication.known_at)
    labelled = pc.is_valid(entities.column(LABEL))
    wanted = entities if keep_unlabelled else entities.filter(labelled)
    refs, table = _with_features(wanted, service, publication, known_at is not None)
    head = {"as_of": [iso(instant) for instant in snapshots]}
    told = {
        iso(instant).removesuffix("T00:00:00Z"): counts(entities, table, instant)
        for instant in snapshots
    }
    manifest = head | described(table, refs, service, publication, known_at, told)
    files = training_files.write(table, manifest, out, name)
    return TrainingSet(table, manifest, files)


def described(
    table: pa.Table,
    refs: list[str],
    service: str,
    publication: Publication,
    known_at: str | datetime | None,
    snapshots: dict[str, Any],
) -> dict[str, Any]:
    """What the manifest of any set says of it, beside how its rows were chosen."""
    return {
        "known_at": None if known_at is None else iso(instant_of(known_at)),
        "publication": publication.told(),
        "feature_service": service,
        "features": refs,
        "code_version": code_version(),
        "rows": table.num_rows,
        "snapshots": snapshots,
        "nulls": {column: table.column(column).null_count for column in table.column_names},
    }


def resolve_known_at(connection: psycopg.Connection, known_at: datetime | None) -> Publication:
    """The newest publication known at an instant; None is now.

    Raises:
        TrainingSetError: nothing was published by then, or something still may be: the instant is
            in the future, or a build that is stamped before it has not ended.
        PrunedError: versions that were known then are gone.
    """
    bring_publications(connection)
    # start_build stamps under this lock: no stamp below `known_at` can be on its way unseen.
    connection.execute("select pg_advisory_xact_lock_shared(hashtext('streamflow build'))")
    if known_at is not None:
        require_answer(connection, known_at)
        (now,) = connection.execute(
            "select greatest(clock_timestamp(), max(known_at)) from ledger.publications"
        ).fetchone() or (None,)
        if known_at > now:
            raise TrainingSetError(
                f"known_at {iso(known_at)} lies in the future (it is {iso(now)}): what will be "
                "known then is not known yet. Leave it out for what is known now"
            )
        running = connection.execute(
            "select known_at, invocation_id from ledger.builds"
            " where status = 'running' and known_at <= %s order by known_at",
            [known_at],
        ).fetchone()
        if running:
            raise TrainingSetError(
                f"the dbt build {running[1]}, stamped {iso(running[0])}, has not ended and may "
                f"still publish below known_at {iso(known_at)}. Wait for it, or ask for an "
                "earlier instant; if it was killed, the next dbt build clears it: "
                "cd dbt_project && dbt build"
            )
    row = connection.execute(
        """
        select known_at, invocation_id, code_version from ledger.publications
        where %(k)s::timestamptz is null or known_at <= %(k)s order by known_at desc limit 1
        """,
        {"k": known_at},
    ).fetchone()
    if row:
        return Publication(*row)
    first = connection.execute("select min(known_at) from ledger.publications").fetchone()
    if known_at is None or not first or first[0] is None:
        raise TrainingSetError("nothing is published yet: cd dbt_project && dbt build")
    raise TrainingSetError(
        f"nothing was published by {iso(known_at)}; the first publication is {iso(first[0])}"
    )


def _snapshots(
    connection: psycopg.Connection,
    as_of: str | datetime | Sequence[str | datetime],
    publication: Publication,
    keep_unlabelled: bool,
) -> list[datetime]:
    """The instants asked for, each of which has rows, in order and each once."""
    there = snapshots_there(connection, publication.known_at, of_labels=not keep_unlabelled)
    asked: list[datetime] = []
    for part in _parts(as_of):
        if isinstance(part, str) and ".." in part:
            start, end = map(instant_of, part.split("..", 1))
            found = [instant for instant in there if start <= instant <= end]
        else:
            found = [instant for instant in there if instant == instant_of(part)]
        if not found:
            kind = "users" if keep_unlabelled else "labels"
            shown = part if isinstance(part, str) else iso(part)
            exist = (
                ", ".join(iso(instant).removesuffix("T00:00:00Z") for instant in there[-12:])
                or "none"
            )
            raise TrainingSetError(
                f"no {kind} for as_of {shown}; there are: {exist}. To add a snapshot: "
                "make load DROP=<folder named after the date>, then cd dbt_project && dbt build"
            )
        asked += found
    return sorted(set(asked))


def _parts(as_of: str | datetime | Sequence[str | datetime]) -> list[str | datetime]:
    if isinstance(as_of, str):
        return [part.strip() for part in as_of.split(",") if part.strip()]
    if isinstance(as_of, datetime):
        return [as_of]
    return [part for item in as_of for part in _parts(item)]


def instant_of(value: str | datetime) -> datetime:
    """An ISO date or instant; without an offset it is UTC. Raises TrainingSetError."""
    if isinstance(value, str):
        try:
            # Python 3.10 reads no Z.
            value = datetime.fromisoformat(value.strip().replace("Z", "+00:00"))
        except ValueError:
            raise TrainingSetError(
                f"{value!r} is no date or instant; write 2024-01-31 or 2024-01-31T12:00:00Z"
            ) from None
    return value if value.tzinfo else value.replace(tzinfo=timezone.utc)


def iso(instant: datetime) -> str:
    """ISO 8601 in UTC."""
    return instant.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


def _with_features(
    entities: pa.Table, service: str, publication: Publication, as_then: bool
) -> tuple[list[str], pa.Table]:
    """The features' names and the set: user_id, as_of, features, label; by user_id and as_of.

    `as_then`: the service and its features as they were defined when that was published, and not
    as they are now.
    """
    frame = entities.rename_columns(["user_id", "event_timestamp", LABEL]).to_pandas()
    try:
        chosen, table = features_of(frame, service, publication, as_then)
    except RequestDataNotFoundInEntityDfException as lacking:
        raise TrainingSetError(
            f"{service} has features that are computed from what a request brings, and a "
            f"snapshot has no request: {lacking}. Use get_historical_features with a frame of "
            "your own that has it, or name another service"
        ) from None
    names = names_of(chosen)
    table = table.select(["user_id", "event_timestamp", *names, LABEL])
    table = table.rename_columns(["user_id", "as_of", *names, LABEL])
    # A column of nulls alone has lost its type on the way through pandas.
    table = table.set_column(len(names) + 2, LABEL, table.column(LABEL).cast(pa.bool_()))
    ordered = table.sort_by([("user_id", "ascending"), ("as_of", "ascending")])
    return chosen, ordered


def features_of(
    frame: pd.DataFrame | str, service: str, publication: Publication, as_then: bool
) -> tuple[list[str], pa.Table]:
    """A service's features, as view:feature, and the frame with them, as that publication had them.

    Of an on-demand feature, what it is computed from is there as well.
    """
    with as_known_at(publication.known_at):
        defined = published_manifest(Database(), publication.known_at) if as_then else None
        refs, job = (
            _job(frame, service) if defined is None else _job_as_then(frame, service, defined)
        )
    return refs, job.to_arrow()


def names_of(refs: list[str]) -> list[str]:
    """The columns of features that are given as view:feature."""
    return [ref.partition(":")[2] for ref in refs]


def _refs(service: FeatureService) -> list[str]:
    """A service's features, as view:feature."""
    return [
        f"{projection.name_to_use()}:{feature.name}"
        for projection in service.feature_view_projections
        for feature in projection.features
    ]


def _job(frame: pd.DataFrame | str, service: str) -> tuple[list[str], RetrievalJob]:
    """The features of a service of Feast's registry, and what Feast gives for it."""
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(FEATURE_REPO))
    try:
        features = store.get_feature_service(service)
    except FeastObjectNotFoundException:
        known = [found.name for found in store.list_feature_services()]
        raise _no_service(service, known) from None
    return _refs(features), store.get_historical_features(frame, features)


def _job_as_then(
    frame: pd.DataFrame | str, service: str, defined: Manifest
) -> tuple[list[str], RetrievalJob]:
    """The same for the definitions of an earlier publication, which the registry has no more. Of
    on-demand features, which are code and not published, today's functions are used."""
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(FEATURE_REPO))
    objects = feast_objects(defined, point_in_time.HISTORY)
    found = objects.get(service)
    if not isinstance(found, FeatureService):
        raise _no_service(service, [known.name for known in defined.services])
    needed: dict[str, list[FeatureViewProjection]] = {}
    for projection in found.feature_view_projections:
        thing = objects[projection.name]
        sources = (
            thing.source_feature_view_projections.values()
            if isinstance(thing, OnDemandFeatureView)
            else [projection]
        )
        for source in sources:
            needed.setdefault(source.name, []).append(source)
    views = []
    for name, projections in needed.items():
        view = objects[name]
        assert isinstance(view, FeatureView)
        wanted = {feature.name for projection in projections for feature in projection.features}
        views.append(view[[feature.name for feature in view.features if feature.name in wanted]])
    implied = [f"{view.name}:{f.name}" for view in views for f in view.projection.features]
    refs = _refs(found)
    job = offline_store.StreamflowOfflineStore.get_historical_features(
        store.config,
        views,
        list(dict.fromkeys([*refs, *implied])),
        frame,
        store.registry,
        store.project,
    )
    return refs, job


def _no_service(service: str, known: list[str]) -> TrainingSetError:
    return TrainingSetError(
        f"there is no feature service {service}; there are: {', '.join(sorted(known)) or 'none'}. "
        "After a change of the dbt project: cd feature_repo && feast apply"
    )


def counts(entities: pa.Table, table: pa.Table, instant: datetime) -> dict[str, int]:
    """Rows of a snapshot by their label, and how many of `entities` the set has left out."""

    def labels(of: pa.Table) -> pa.ChunkedArray:
        return of.filter(pc.equal(of.column("as_of"), pa.scalar(instant, UTC))).column(LABEL)

    kept = labels(table)
    return {
        "rows": len(kept),
        "churned": pc.sum(kept).as_py() or 0,
        "stayed": pc.sum(pc.invert(kept)).as_py() or 0,
        "unlabelled": kept.null_count,
        "left_out": len(labels(entities)) - len(kept),
    }
