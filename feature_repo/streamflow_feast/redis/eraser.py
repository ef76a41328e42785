"""Take entities out of Redis, by what their keys there say: also who was never published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from feast import FeatureStore
from feast.infra.key_encoding_utils import deserialize_entity_key
from feast.infra.online_stores.redis import RedisOnlineStore

from streamflow_feast.materialize import stream

BATCH = 1_000


def erase_keys(feature_store: Path, is_erased: Callable[[Mapping[str, object]], bool]) -> int:
    """Delete the keys of the project in Redis of which `is_erased` says so, given the join keys
    and their values; how many there were. `feature_store` is the store's YAML file."""
    store = FeatureStore(fs_yaml_file=feature_store)
    config, online = store.config, store._get_provider().online_store
    assert isinstance(online, RedisOnlineStore)
    client = online._get_client(config.online_store)
    project, removed = config.project.encode(), 0
    keys = client.scan_iter(match=b"*" + project, count=BATCH)
    for batch in stream.batches(keys, BATCH):
        found = [key for key in batch if is_erased(_join_keys(key[: -len(project)]))]
        removed += client.delete(*found) if found else 0
    return removed


def _join_keys(serialized: bytes) -> dict[str, object]:
    """Join key -> value; empty for a key that is none of Feast's."""
    try:
        key = deserialize_entity_key(serialized, entity_key_serialization_version=3)
    except (ValueError, UnicodeDecodeError, IndexError):
        return {}
    return {
        name: getattr(value, value.WhichOneof("val") or "string_val")
        for name, value in zip(key.join_keys, key.entity_values, strict=False)
    }
