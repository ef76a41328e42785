"""Feast's provider, with a look at what is pushed before Feast turns it into protobuf values.

Feast's own conversion says `invalid literal for int()` of a value that does not fit, and bends
others in silence: 1.7 becomes 1, the text "False" becomes true.
"""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureView
from feast.data_source import DataSource
from feast.infra.passthrough_provider import PassthroughProvider
from feast.repo_config import RepoConfig
from feast.types import Int64

from streamflow_feast.views import POSTGRES_TYPES, to_value


class PushError(ValueError):
    """Pushed rows cannot be taken; names view, feature, entity and value. Nothing was written."""


class StreamflowProvider(PassthroughProvider):
    """`provider` in feature_store.yaml."""

    @staticmethod
    def _prep_rows_to_write_for_ingestion(
        feature_view: Any, df: pd.DataFrame, field_mapping: dict[str, str] | None = None
    ) -> list[Any]:
        """As Feast's, for each kind of push, with the values checked and large integers exact.

        Raises:
            PushError: a value does not fit its feature.
        """
        check(feature_view, df)
        rows = PassthroughProvider._prep_rows_to_write_for_ingestion(
            feature_view, df, field_mapping
        )
        for field in feature_view.features:
            if field.dtype == Int64 and field.name in df and df[field.name].hasnans:
                # Beside a null, Feast has made floats of them.
                for (_, values, *_), value in zip(rows, df[field.name], strict=True):
                    if not pd.isna(value):
                        values[field.name] = to_value("bigint", int(value))
        return rows

    def ingest_df_to_offline_store(self, feature_view: FeatureView, table: pa.Table) -> None:
        """Raises PushError: see `offline_refused`."""
        raise offline_refused(feature_view.name)

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> Iterable[tuple[str, str]]:
        """As Feast's. Before a push to the offline side Feast compares columns, and would ask for
        those that a build alone can fill (is_retracted)."""
        if sys._getframe(1).f_code.co_name == "write_to_offline_store":
            raise offline_refused(data_source.name)
        return super().get_table_column_names_and_types_from_data_source(config, data_source)


def offline_refused(view: str) -> PushError:
    """Why the offline side takes no pushed rows."""
    return PushError(
        f"Nothing was pushed to the offline side of {view}: its history holds only what a dbt "
        "build computed, tested and published, or a training set would learn from rows that no "
        "test has seen. Push with to=PushMode.ONLINE, and deliver the same facts as a drop: "
        "python -m data load <folder>, then cd dbt_project && dbt build"
    )


def check(feature_view: FeatureView, frame: pd.DataFrame) -> None:
    """Raise PushError for the first value that does not fit the type of its feature or key."""
    keys = [field.name for field in feature_view.entity_columns]
    for field in (*feature_view.entity_columns, *feature_view.features):
        kind = POSTGRES_TYPES.get(field.dtype)
        if kind is None or field.name not in frame.columns:
            continue  # another type of Feast's, or a column whose absence Feast tells
        fits = FITS[kind]
        for row, value in enumerate(frame[field.name]):
            if pd.api.types.is_scalar(value) and pd.isna(value):
                continue  # null; a key or an instant that is null is refused when it is written
            if fits(value):
                continue
            who = ", ".join(f"{key} {frame[key].iloc[row]!r}" for key in keys if key in frame)
            what = "id" if field.name in keys else "value"
            raise PushError(
                f"push to {feature_view.name}: {field.name} of {who} (row {row}) is {value!r}, "
                f"which is no {what} of type {kind}. Nothing of the {len(frame):,} rows was written"
            )


def _integer(bits: int) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        if isinstance(value, bool | np.bool_):
            return False
        try:
            # Integers beside nulls are floats in pandas; a text of digits is taken as Feast does.
            whole = int(value)
        except (ValueError, TypeError, OverflowError):
            return False
        exact = isinstance(value, str) or whole == value
        return exact and -(2 ** (bits - 1)) <= whole < 2 ** (bits - 1)

    return fits


def _float(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return False
    try:
        return not math.isnan(float(value))
    except (ValueError, TypeError, OverflowError):
        return False


def _boolean(value: Any) -> bool:
    return isinstance(value, bool | np.bool_) or (
        isinstance(value, numbers.Number) and value in (0, 1)
    )


def _text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


FITS: dict[str, Callable[[Any], bool]] = {
    "bigint": _integer(64),
    "integer": _integer(32),
    "double precision": _float,
    "real": _float,
    "boolean": _boolean,
    "text": _text,
    "bytea": lambda value: isinstance(value, bytes),
}
