"""Feast's provider, with a look at what is pushed before Feast turns it into protobuf values.

Feast's own conversion says `invalid literal for int()` of a value that does not fit, and bends
others in silence: 1.7 becomes 1, the text "False" becomes true.
"""

from __future__ import annotations

import json
import math
import numbers
import sys
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timezone
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureView, Field
from feast.data_source import DataSource
from feast.infra.passthrough_provider import PassthroughProvider
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.types import String
from feast.utils import make_tzaware

from streamflow_feast.dbt.types import digits, without_digits
from streamflow_feast.kinds import kind_of, to_value
from streamflow_feast.views import type_of


class PushError(ValueError):
    """Pushed rows cannot be taken; names view, feature, entity and value. Nothing was written."""


class StreamflowProvider(PassthroughProvider):
    """`provider` in feature_store.yaml."""

    @staticmethod
    def _prep_rows_to_write_for_ingestion(
        feature_view: Any, df: pd.DataFrame, field_mapping: dict[str, str] | None = None
    ) -> list[Any]:
        """The rows for `online_write_batch`, with each value as it was pushed.

        The column of the created timestamp may be left out.

        Raises:
            PushError: a value does not fit its feature, or a column is missing.
        """
        if isinstance(feature_view, OnDemandFeatureView):
            return PassthroughProvider._prep_rows_to_write_for_ingestion(
                feature_view, df, field_mapping
            )
        source = feature_view.batch_source
        df = df.rename(columns=source.field_mapping or {})
        check(feature_view, df)
        keys, features = feature_view.entity_columns, feature_view.features
        columns = {
            field.name: [_value(field, value) for value in df[field.name]]
            for field in (*keys, *features)
        }
        as_ofs = _instants(feature_view, df, source.timestamp_field)
        created: list[datetime | None] = [None] * len(df)
        if source.created_timestamp_column in df:
            created = _instants(feature_view, df, source.created_timestamp_column)
        return [
            (
                EntityKey(
                    join_keys=[key.name for key in keys],
                    entity_values=[columns[key.name][row] for key in keys],
                ),
                {feature.name: columns[feature.name][row] for feature in features},
                as_ofs[row],
                created[row],
            )
            for row in range(len(df))
        ]

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
        kind = type_of(field)
        if kind is None:
            raise PushError(
                f"push to {feature_view.name}: {field.name} is a {field.dtype}, which this store "
                "does not have. Nothing was written"
            )
        if field.name not in frame.columns:
            raise PushError(
                f"push to {feature_view.name}: no column {field.name} (columns: "
                f"{', '.join(map(str, frame.columns))}). Nothing was written"
            )
        fits = FITS[without_digits(kind)]
        for row, value in enumerate(frame[field.name]):
            if _is_null(value):
                continue  # a key or an instant that is null is refused when it is written
            if fits(value) and (digits(kind) is None or _has_room(kind, value)):
                continue
            who = ", ".join(f"{key} {frame[key].iloc[row]!r}" for key in keys if key in frame)
            what = "id" if field.name in keys else "value"
            rule = kind_of(kind).rule
            raise PushError(
                f"push to {feature_view.name}: {field.name} of {who} (row {row}) is {value!r}, "
                f"which is no {what} of type {kind}{f' ({rule})' if rule else ''}. "
                f"Nothing of the {len(frame):,} rows was written"
            )


def _is_null(value: Any) -> bool:
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def _value(field: Field, value: Any) -> Value:
    """The protobuf value of a checked one; a uuid key is its text (see views.key_field)."""
    if _is_null(value):
        return Value()
    kind = str(type_of(field))
    if field.dtype == String:
        return Value(string_val=str(UUID(str(value))) if kind == "uuid" else value)
    return to_value(kind, PYTHON[without_digits(kind)](value))


def _instants(feature_view: FeatureView, frame: pd.DataFrame, name: str) -> list[datetime | None]:
    """A column of instants; without a zone they are UTC."""
    if name not in frame:
        raise PushError(
            f"push to {feature_view.name}: no column {name}, the instant that a row describes. "
            "Nothing was written"
        )
    try:
        found = pd.to_datetime(frame[name], utc=True)
    except (ValueError, TypeError, OverflowError) as error:
        raise PushError(
            f"push to {feature_view.name}: {name} is not made of instants ({error}). "
            "Nothing was written"
        ) from None
    return [None if _is_null(instant) else instant.to_pydatetime() for instant in found]


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


def _decimal(value: Any) -> bool:
    if isinstance(value, bool | np.bool_ | float):
        return False  # a double is no decimal: 0.1 has 55 digits
    try:
        return Decimal(value).is_finite()
    except (InvalidOperation, TypeError, ValueError):
        return False


def _has_room(kind: str, value: Any) -> bool:
    """Whether numeric(p,s) holds the decimal without rounding it."""
    precision, scale = digits(kind) or (0, 0)
    number = Decimal(value)
    _, of, exponent = number.as_tuple()
    assert isinstance(exponent, int)  # a finite one's
    trailing = len(of) - len("".join(map(str, of)).rstrip("0"))
    return not number or (exponent + trailing >= -scale and number.adjusted() < precision - scale)


def _instant(value: Any) -> bool:
    return isinstance(value, datetime)


def _utc(value: datetime) -> datetime:
    """Without a zone it is UTC, as everywhere in Feast."""
    plain = value.to_pydatetime() if isinstance(value, pd.Timestamp) else value
    return make_tzaware(plain).astimezone(timezone.utc)


def _date(value: Any) -> bool:
    if not isinstance(value, datetime):
        return isinstance(value, date)
    return value.time() == time() and not getattr(value, "nanosecond", 0)


def _uuid(value: Any) -> bool:
    try:
        UUID(str(value))
    except ValueError:
        return False
    return isinstance(value, str | UUID)


def _json(value: Any) -> bool:
    try:
        json.loads(value)
    except (ValueError, TypeError):
        return False
    return isinstance(value, str)


def _array(element: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        return isinstance(value, list | tuple | np.ndarray) and all(
            pd.api.types.is_scalar(item) and not _is_missing(item) and element(item)
            for item in value
        )

    return fits


def _is_missing(item: Any) -> bool:
    """A NaN among doubles is a value."""
    return item is None or item is pd.NA or item is pd.NaT


def _number(value: Any) -> bool:
    return isinstance(value, float) or _float(value)


# What may be pushed for a type, and the Python value that it is.
FITS: dict[str, Callable[[Any], bool]] = {
    "bigint": _integer(64),
    "integer": _integer(32),
    "double precision": _float,
    "real": _float,
    "boolean": _boolean,
    "text": _text,
    "bytea": lambda value: isinstance(value, bytes),
    "numeric": _decimal,
    "timestamp with time zone": _instant,
    "date": _date,
    "uuid": _uuid,
    "jsonb": _json,
    "text[]": _array(_text),
    "bigint[]": _array(_integer(64)),
    "double precision[]": _array(_number),
    "boolean[]": _array(_boolean),
}
PYTHON: dict[str, Callable[[Any], Any]] = {
    "bigint": int,
    "integer": int,
    "double precision": float,
    "real": float,
    "boolean": bool,
    "text": str,
    "bytea": bytes,
    "numeric": Decimal,
    "timestamp with time zone": _utc,
    "date": lambda value: value.date() if isinstance(value, datetime) else value,
    "uuid": lambda value: UUID(str(value)),
    "jsonb": str,
    "text[]": lambda values: [str(value) for value in values],
    "bigint[]": lambda values: [int(value) for value in values],
    "double precision[]": lambda values: [float(value) for value in values],
    "boolean[]": lambda values: [bool(value) for value in values],
}
