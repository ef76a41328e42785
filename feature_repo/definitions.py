"""What `feast apply` imports: every Feast object of the project, made from dbt's manifest and
on_demand.py.

Feast collects module attributes, hence `globals()`. The manifest is that of the project this file
lies in, so that a copy of the project reads its own; of it, what was published is taken.
"""

from pathlib import Path

from streamflow_feast.dbt.feast_objects import feast_objects
from streamflow_feast.dbt.manifest import manifest_path, read_manifest
from streamflow_feast.dbt.publications import published_part
from streamflow_feast.registry import definitions_loaded

HERE = Path(__file__).resolve().parent

globals().update(
    feast_objects(
        published_part(read_manifest(manifest_path(HERE.parent))),
        on_demand=HERE / "on_demand.py",
    )
)
definitions_loaded()
