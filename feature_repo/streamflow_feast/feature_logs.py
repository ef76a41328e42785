"""Served answers as they are logged: Feast's own form of a feature service's logs, in Parquet.

The columns are those of Feast's FeatureServiceLoggingSource: join keys, what a request brought, and
of each feature `<view>__<feature>`, its `__timestamp` (as_of) and `__status`. Three more make an
answer comparable: `__served` has the values as the answer's JSON had them, `__provenance` each
view's clocks, `__keys_hashed` says whether the join keys are texts made by `Pseudonyms`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from feast.embedded_go.type_map import FEAST_TYPE_TO_ARROW_TYPE, PA_TIMESTAMP_TYPE
from feast.feature_logging import (
    LOG_DATE_FIELD,
    LOG_TIMESTAMP_FIELD,
    REQUEST_ID_FIELD,
    LoggingConfig,
    LoggingSource,
)
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.infra.registry.base_registry import BaseRegistry
from feast.types import FeastType

SALT = ".salt"  # in the folder of logs
SERVED, PROVENANCE, HASHED = "__served", "__provenance", "__keys_hashed"
UTC_MICROS = pa.timestamp("us", tz="UTC")


class FeatureLogError(ValueError):
    """Logs cannot be written or read; says where and why."""


class Pseudonyms:
    """Makes texts of join keys that only who has the salt can match with published keys."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt

    def of(self, key: object) -> str:
        """The pseudonym of a key: 64 hex digits, the same for the same key and salt."""
        return hmac.new(self._salt, str(key).encode(), hashlib.sha256).hexdigest()

    @classmethod
    def in_folder(cls, folder: Path, given: str = "", *, make: bool = True) -> Pseudonyms:
        """With the salt that is given, or else the folder's own, which the first writer makes.

        Raises:
            FeatureLogError: there is none (and `make` is false).
        """
        if given:
            return cls(given.encode())
        file = folder / SALT
        if make:
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f"{SALT}.{secrets.token_hex(8)}"
            partial.write_text(secrets.token_hex(32))
            partial.chmod(0o600)
            try:
                os.link(partial, file)  # whole, and only where there is none
            except FileExistsError:
                pass
            finally:
                partial.unlink()
        try:
            return cls(file.read_text().strip().encode())
        except OSError as error:
            raise FeatureLogError(
                f"the salt of hashed keys cannot be read ({file}: {error.strerror}); set "
                "STREAMFLOW_API_LOG_SALT as for the API that wrote these logs"
            ) from None


@dataclass(frozen=True)
class ServiceLogs(LoggingSource):
    """The form of a service's logs: `keys` and `request` are name -> type, `features` are
    (view, feature) -> type, all of them Feast's; with `hashed` the keys are texts."""

    service: str
    keys: Mapping[str, FeastType]
    request: Mapping[str, FeastType]
    features: Mapping[tuple[str, str], FeastType]
    hashed: bool

    def get_schema(self, registry: BaseRegistry | None = None) -> pa.Schema:
        """As Feast's own source gives it, and the three columns more."""
        fields = {
            key: pa.string() if self.hashed else arrow_type(kind) for key, kind in self.keys.items()
        }
        fields |= {name: arrow_type(kind) for name, kind in self.request.items()}
        for (view, name), kind in self.features.items():
            fields[f"{view}__{name}"] = arrow_type(kind)
            fields[f"{view}__{name}__timestamp"] = PA_TIMESTAMP_TYPE
            fields[f"{view}__{name}__status"] = pa.int32()
        fields |= {
            LOG_TIMESTAMP_FIELD: UTC_MICROS,
            LOG_DATE_FIELD: pa.date32(),
            REQUEST_ID_FIELD: pa.string(),
            SERVED: pa.string(),
            PROVENANCE: pa.string(),
            HASHED: pa.bool_(),
        }
        return pa.schema(list(fields.items()))

    def get_log_timestamp_column(self) -> str:
        return LOG_TIMESTAMP_FIELD


def arrow_type(kind: FeastType) -> pa.DataType:
    """Feast's, of the types that its logs know; of the others (decimals, JSON, UUIDs) a text."""
    return FEAST_TYPE_TO_ARROW_TYPE.get(kind, pa.string())


def arrow_value(kind: FeastType, value: Any) -> Any:
    """A value of an answer's JSON as its column takes it."""
    to = arrow_type(kind)
    if value is None:
        return None
    if pa.types.is_timestamp(to):
        # To the second, as all of Feast's instants; a date is its midnight.
        return datetime.fromisoformat(value.replace("Z", "+00:00")).replace(
            microsecond=0, tzinfo=None
        )
    if pa.types.is_binary(to):
        return base64.b64decode(value)
    if pa.types.is_string(to) and not isinstance(value, str):
        return json.dumps(value)
    return value


def destination(folder: Path, service: str, sample_rate: float) -> LoggingConfig:
    """Where a service's logs go: Feast's own configuration of it."""
    return LoggingConfig(FileLoggingDestination(path=str(folder / service)), sample_rate)


def write(logs: pa.Table | Path, config: LoggingConfig) -> None:
    """Append logs to a file destination: a file a day, each there as a whole or not at all.

    Raises:
        FeatureLogError: the destination is no local folder.
    """
    to = config.destination
    if not isinstance(to, FileLoggingDestination) or "://" in to.path:
        raise FeatureLogError("feature logs go to a local folder: FileLoggingDestination(path=...)")
    table = pq.read_table(logs) if isinstance(logs, Path) else logs
    for day in sorted(set(table.column(LOG_DATE_FIELD).to_pylist())):
        folder = Path(to.path) / str(day)
        folder.mkdir(parents=True, exist_ok=True)
        name = secrets.token_hex(16)
        partial = folder / f".{name}"
        pq.write_table(table.filter(ds.field(LOG_DATE_FIELD) == day), partial)
        partial.rename(folder / f"{name}.parquet")


def read(folder: Path, service: str, since: datetime) -> Iterable[pa.Table]:
    """The logs of a service from an instant on, a table a file: services change their features."""
    for file in sorted((folder / service).glob("????-??-??/*.parquet")):
        if file.parent.name >= f"{since:%Y-%m-%d}":
            table = pq.read_table(file)
            yield table.filter(ds.field(LOG_TIMESTAMP_FIELD) >= pa.scalar(since, UTC_MICROS))


def services(folder: Path) -> list[str]:
    """The services that have logs."""
    return sorted(path.name for path in folder.glob("*") if path.is_dir())
