"""A FeatureStore that was used may go to another process: what is pickled is its configuration.

Feast's class holds locks, context variables and a registry, none of which can be pickled; the
other process makes its own, from its own environment, and connects when it reads. A process pool,
Spark, Ray and torch's DataLoader all go by pickle's table of reducers, as does `copy.deepcopy`.
"""

from __future__ import annotations

import copyreg
from pathlib import Path
from typing import Any

from feast import FeatureStore
from feast.repo_config import RepoConfig

# What RepoConfig makes from the configuration when first asked; passwords are among it.
MADE = ("_registry", "_offline_store", "_online_store", "_auth", "_batch_engine")


def _reduce(store: FeatureStore) -> tuple[Any, ...]:
    config = store.config.model_copy()
    for name in MADE:
        setattr(config, name, None)
    # The other process may have another working directory.
    if config.repo_path is not None:
        config.repo_path = Path(config.repo_path).resolve()
    return _restore, (config, Path(store.repo_path).resolve(), store._embedding_provider)


def _restore(config: RepoConfig, repo_path: Path, embedding_provider: Any) -> FeatureStore:
    store = FeatureStore(config=config, embedding_provider=embedding_provider)
    store.repo_path = repo_path
    return store


copyreg.pickle(FeatureStore, _reduce)
