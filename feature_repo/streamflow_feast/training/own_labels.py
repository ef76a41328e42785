"""Training sets at instants of one's own: a file or a query of entities, instants and labels.

`make training-set LABELS=upgrades.csv SERVICE=churn_v1` takes a CSV or Parquet file with the join
keys of the service, `event_timestamp`, and any other columns, such as a label; or, as
LABELS="select ...", one SELECT. Each row gets the features as of its own instant. The other columns
come back as they are, and the rows ordered by join keys and instant.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import FeatureStore, ValueType
from pyarrow import csv

from data.database import Database
from data.paths import FEATURE_REPO, PROCESSED
from streamflow_feast.offline.entity_frame import INSTANT
from streamflow_feast.training import files as training_files
from streamflow_feast.training.training_set import (
    TrainingSet,
    TrainingSetError,
    described,
    features_of,
    instant_of,
    names_of,
    resolve_known_at,
)


def write_for_labels(
    labels: str,
    known_at: str | datetime | None = None,
    service: str = "churn_v1",
    out: Path = PROCESSED,
    name: str = "training_df",
) -> TrainingSet:
    """Make the set of the rows in `labels` and write its files; what was there is replaced.

    Args:
        labels: path of a .csv or .parquet file, or one SELECT.
        known_at: use what was published by then; default: the newest publication.

    Raises:
        TrainingSetError: the file cannot be read as said above; or see training_set.
    """
    with Database().connect() as connection:
        publication = resolve_known_at(connection, instant_of(known_at) if known_at else None)
    store = FeatureStore(repo_path=str(FEATURE_REPO))
    kinds = {entity.join_key: entity.value_type for entity in store.list_entities()}
    is_query = labels.lstrip().lower().startswith(("select", "with"))
    frame = labels if is_query else read_frame(Path(labels), kinds)
    refs, table = features_of(frame, service, publication, known_at is not None)
    if INSTANT not in table.column_names:
        raise TrainingSetError(f"the query has no column {INSTANT}; name its instants so")
    keys = [column for column in table.column_names if column in kinds]
    features = names_of(refs)
    others = [c for c in table.column_names if c not in (*keys, INSTANT, *features)]
    if not is_query:  # of an on-demand feature, what it is computed from is there as well
        others = [column for column in others if column in frame]
    table = table.select([*keys, INSTANT, *features, *others])
    table = table.sort_by([(column, "ascending") for column in (*keys, INSTANT)])
    head = {"labels": labels if is_query else Path(labels).name}
    manifest = head | described(table, refs, service, publication, known_at, {})
    return TrainingSet(table, manifest, training_files.write(table, manifest, out, name))


def read_frame(file: Path, kinds: dict[str, ValueType]) -> pd.DataFrame:
    """A file's rows; `kinds` are join keys -> their types. Naive instants are UTC.

    Raises:
        TrainingSetError: it names file, line, column and value.
    """
    try:
        if file.suffix == ".parquet":
            frame = pd.read_parquet(file)
        else:
            options = csv.ConvertOptions(
                column_types=dict.fromkeys((*kinds, INSTANT), pa.string()),
                null_values=[""],
                strings_can_be_null=True,
            )
            frame = csv.read_csv(file, convert_options=options).to_pandas(
                types_mapper={pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}.get
            )
    except (OSError, ValueError, pa.ArrowException) as error:
        raise TrainingSetError(f"{file}: cannot be read: {error}") from None
    keys = [column for column in frame.columns if column in kinds]
    if not keys or INSTANT not in frame:
        raise TrainingSetError(
            f"{file}: has the columns {', '.join(map(str, frame.columns))}; it needs {INSTANT} and "
            f"the join keys of the service, of {', '.join(kinds)}"
        )
    if file.suffix != ".parquet":
        frame[INSTANT] = _parsed(file, frame, INSTANT, instant_of)
        for key in keys:
            if kinds[key] == ValueType.INT64:
                frame[key] = _parsed(file, frame, key, int)
    return frame


def _parsed(file: Path, frame: pd.DataFrame, column: str, parse: Any) -> list[Any]:
    found = []
    for line, value in enumerate(frame[column], start=2):
        try:
            found.append(parse(value))
        except (AttributeError, TypeError, ValueError):
            expected = "2024-01-31T12:00:00Z" if column == INSTANT else "a whole number"
            raise TrainingSetError(
                f"{file}: line {line}, {column}: {value!r}; expected {expected}"
            ) from None
    return found
