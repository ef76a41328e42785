"""Feast over dbt's outputs: its offline and online stores, engine, provider and registry.

Imported before Feast, it has Feast imported without the run-time type checks (typeguard) that Feast
compiles into every method of its definitions: three of the four seconds of a start
(docs/decisions/0004-feast-without-its-checks.md).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Unchecked(MetaPathFinder):
    """Finds Feast as it is found without us, and has it imported without the checks."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "feast":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                import typeguard

                checked, typeguard.typechecked = typeguard.typechecked, _as_it_is
                try:
                    execute(module)
                finally:
                    typeguard.typechecked = checked

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _as_it_is(target: Any = None, **_: Any) -> Any:
    """In place of `typeguard.typechecked`, with and without arguments."""
    return _as_it_is if target is None else target


if "feast" not in sys.modules:
    sys.meta_path.insert(0, _Unchecked())
