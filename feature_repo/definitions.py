"""What `feast apply` imports: every Feast object of the project, made from dbt's manifest.

Feast collects module attributes, hence `globals()`. The manifest is that of the project this file
lies in, so that a copy of the project reads its own; of it, what was published is taken.
"""

from pathlib import Path

from feature_repo.feast_objects import feast_objects
from feature_repo.manifest import manifest_path, read_manifest
from feature_repo.publications import published_part
from feature_repo.registry import definitions_loaded

globals().update(
    feast_objects(
        published_part(read_manifest(manifest_path(Path(__file__).resolve().parent.parent)))
    )
)
definitions_loaded()
