"""From raw column to feature, service and answer: writes dbt_project/target/column_lineage.json.

With a feature's name it also shows which raw columns go into it, and how.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from data.database import Database
from data.errors import command
from orchestration import steps
from orchestration.lineage import facets
from orchestration.lineage.project import ProjectLineage, compiled_manifest, read
from orchestration.lineage.served import Served, read_served
from streamflow_feast.dbt.manifest import ManifestError

FILE = "column_lineage.json"


def lineage() -> tuple[ProjectLineage, Served, Path]:
    """Work out the lineage of the project as dbt compiled it, and write the file.

    Raises:
        StepError: a column that cannot be resolved, a feature without a raw column, no database.
    """
    with steps.told_as("lineage", "make build lineage"):
        manifest = compiled_manifest()
        project = read(manifest)
        try:
            served = read_served(manifest)
        except ManifestError as error:
            raise steps.StepError("lineage", str(error), "make build lineage") from error
        path = steps.target() / FILE
        facets.write(path, facets.document(project, served, Database()))
    return project, served, path


def shown(project: ProjectLineage, served: Served, feature: str) -> list[str]:
    """The raw columns behind a feature, as lines; the last say where it is asked for.

    Raises:
        StepError: there is no such feature.
    """
    lines: list[str] = []
    for node, column in project.features():
        if feature not in (column, f"{node['name']}.{column}"):
            continue
        own = project.from_raw[node["unique_id"]].columns[column]
        kinds: dict[tuple[str, str], set[str]] = {}
        for use in own:
            if use.column in project.raw[use.relation]:
                of = (project.node(use.relation)["name"], use.column)
                kinds.setdefault(of, set()).add(facets.kind(use.type, use.subtype))
        lines.append(f"  {node['name']}.{column}")
        lines += [
            f"    {f'{table}.{name}':<44} {', '.join(sorted(kinds[table, name], reverse=True))}"
            for table, name in sorted(kinds, key=lambda of: ("value" not in kinds[of], of))
        ]
        used = [service for service, _ in served.used_in(node["name"], column)]
        used += served.made_from(node["name"], column)
        lines.append(f"    used in {', '.join(used) or 'no service'}")
    if not lines:
        known = sorted({column for _, column in project.features()})
        what = f"there is no feature {feature}; there are: {', '.join(known)}"
        raise steps.StepError("lineage", what, "make lineage FEATURE=<name>")
    return lines


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m orchestration lineage", description=__doc__)
    parser.add_argument("--feature", help="show the raw columns behind this one")
    options = parser.parse_args(arguments)
    project, served, path = lineage()
    if options.feature:
        print("\n".join(shown(project, served, options.feature)))
    features = list(project.features())
    columns = {
        (use.relation, use.column)
        for node, column in features
        for use in project.uses(node["unique_id"], column)
        if use.column in project.raw[use.relation]
    }
    steps.say(f"  {len(features)} features and labels from {len(columns)} raw columns: {path}")
    return 0
