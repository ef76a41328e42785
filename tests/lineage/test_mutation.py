"""Is the lineage true? Each raw column is changed in the data, and what changes is compared.

If one of these fails, somebody who asks "what does this column go into?" is told the wrong thing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data.database import Database
from data.load.load import load
from orchestration.lineage.project import ProjectLineage, compiled_manifest, read
from tests.dbt import builds
from tests.lineage import mutations

Feature = tuple[str, str]  # table and column
Found: dict[str, Experiment] = {}  # by the first test that asks


@dataclass(frozen=True)
class Experiment:
    """Lineage after a first build and after the changed drops; raw column -> features that
    changed."""

    first: ProjectLineage
    second: ProjectLineage
    changed: Mapping[tuple[str, str], set[Feature]]


@pytest.fixture
def experiment(database: Database, tmp_path: Path) -> Experiment:
    if "all" not in Found:
        states, lineages = [], []
        for turn, changed in (("before", False), ("after", True)):
            for folder in mutations.write(tmp_path / turn, changed=changed):
                load(folder)
            outcome = builds.build()
            assert outcome.success, outcome.output[-4000:]
            known_at = builds.newest_publication()
            states.append(
                {t: builds.as_known_at(builds.published(t), known_at) for t in builds.FEATURES}
            )
            lineages.append(read(compiled_manifest()))
        changes = {group: set() for group in mutations.GROUPS}
        for table, before in states[0].items():
            _compare(table, before, states[1][table], changes)
        Found["all"] = Experiment(*lineages, changes)
    return Found["all"]


def _compare(
    table: str,
    before: Mapping[Any, Mapping[str, Any]],
    after: Mapping[Any, Mapping[str, Any]],
    changes: dict[tuple[str, str], set[Feature]],
) -> None:
    features = next(iter(before.values())).keys()
    for pair in before.keys() | after.keys():
        group = mutations.GROUPS[int(str(pair[0])[1:4])]
        old, new = before.get(pair), after.get(pair)
        for feature in features:
            if old is None or new is None or old[feature] != new[feature]:
                changes[group].add((table, feature))


def goes_into(lineage: ProjectLineage, *, own: bool, kinds: Iterable[str]) -> dict[Any, set]:
    """Raw column -> features, by their own uses or by those that decide about their rows too."""
    found: dict[Any, set[Feature]] = {group: set() for group in mutations.GROUPS}
    for node, column in lineage.features():
        of = lineage.from_raw[node["unique_id"]]
        for use in of.columns[column] | (frozenset() if own else of.rows):
            group = (lineage.node(use.relation)["name"], use.column)
            if group in found and use.type in kinds:
                found[group].add((node["name"], column))
    return found


def unexplained(lineage: ProjectLineage, changed: Mapping[Any, set[Feature]]) -> list[str]:
    """What changed although no lineage names the column."""
    named = goes_into(lineage, own=False, kinds=("DIRECT", "INDIRECT"))
    return [f"{c} -> {f}" for c, features in changed.items() for f in features - named[c]]


def test_only_features_whose_lineage_names_a_column_change_with_it(experiment: Experiment) -> None:
    assert sum(map(len, experiment.changed.values())) > 100
    assert unexplained(experiment.first, experiment.changed) == []
    assert unexplained(experiment.second, experiment.changed) == []


def test_every_column_that_a_feature_is_said_to_use_can_change_it(experiment: Experiment) -> None:
    """Or else a lineage that names everything would be as good."""
    named = goes_into(experiment.first, own=True, kinds=("DIRECT", "INDIRECT"))
    idle = {c: f for c, features in named.items() if (f := features - experiment.changed[c])}
    # A user's features are looked up by the id that the spine has from users; with the ids of two
    # users exchanged there, both are still there, and so is what happened to them.
    assert {c: f for c, f in idle.items() if c != ("users", "user_id")} == {}


def test_a_column_that_goes_into_nothing_changes_nothing(experiment: Experiment) -> None:
    for column in (("usage", "session_id"), ("payments", "payment_id")):
        assert experiment.changed[column] == set()


def test_the_lineage_is_one_whatever_a_build_had_to_compute(experiment: Experiment) -> None:
    """The first build computes all pairs, the second what new rows reach: another SQL."""
    assert experiment.first.steps != experiment.second.steps
    assert {k: v for k, v in experiment.first.from_raw.items() if "feature" in k} == {
        k: v for k, v in experiment.second.from_raw.items() if "feature" in k
    }


def test_a_value_that_changes_without_lineage_is_found(experiment: Experiment) -> None:
    lineage = experiment.first
    usage = "model.streamflow.usage_features"
    of = lineage.from_raw[usage]
    less = {u for u in of.columns["skips_7d"] if u.column != "skips"}
    columns = {**of.columns, "skips_7d": frozenset(less)}
    lineage.from_raw[usage] = type(of)(columns, of.rows)  # type: ignore[index]
    try:
        assert unexplained(lineage, experiment.changed) == [
            "('usage', 'skips') -> ('usage_features', 'skips_7d')"
        ]
    finally:
        lineage.from_raw[usage] = of  # type: ignore[index]
