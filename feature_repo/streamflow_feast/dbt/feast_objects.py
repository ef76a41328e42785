"""Feast's objects, made from what dbt's manifest says.

Nothing is listed here: a feature view is a dbt model with `meta.feast`, a feature service an
exposure with `meta.feast.feature_service`.
"""

from __future__ import annotations

import copy
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureStore, FeatureView, Project
from feast.base_feature_view import BaseFeatureView
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.repo_contents import RepoContents
from feast.repo_operations import apply_total_with_repo_instance

from streamflow_feast.dbt.manifest import (
    FeatureTable,
    Manifest,
    ManifestError,
    Service,
    manifest_path,
    read_manifest,
)
from streamflow_feast.dbt.publications import published_part
from streamflow_feast.registry import definitions_loaded
from streamflow_feast.views import field_of, key_field


class DbtFeatureView(FeatureView):
    """A feature view that equals its registered self, whatever was materialized since then.

    Feast compares the materialization intervals too, which are no part of a definition, so that
    `feast plan` would report every view as updated for ever.
    """

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FeatureView):
            return False
        alike = copy.copy(other)
        alike.materialization_intervals = self.materialization_intervals
        return bool(super().__eq__(alike))

    __hash__ = FeatureView.__hash__

    def _schema_or_udf_changed(self, other: BaseFeatureView) -> bool:
        """Feast compares the order of features, but does not register a new one."""
        order = [[field.name for field in view.features] for view in (self, other)]
        return order[0] != order[1] or super()._schema_or_udf_changed(other)


def feast_objects(
    manifest: Manifest, schema: str = "published"
) -> dict[str, Entity | DataSource | FeatureView | FeatureService]:
    """Every Feast object of the project, by its module attribute in definitions.py.

    `schema` is where the views' tables lie; see offline_store.HISTORY.

    Raises:
        ManifestError: dbt ran on an engine that this project has no Feast source for, or two
            objects have one name.
    """
    entities = _entities(manifest)
    views = {
        table.name: _view(table, entities, manifest.adapter, schema) for table in manifest.tables
    }
    services = {service.name: _service(service, views) for service in manifest.services}
    objects: dict[str, Entity | DataSource | FeatureView | FeatureService] = {}
    for kind, found in (("entity", _by_name(entities)), ("view", views), ("service", services)):
        for name, thing in found.items():
            if name in objects:
                raise ManifestError(
                    f"There is more than one Feast object named {name}, one of them a {kind}: "
                    "entities, feature tables and exposures need names of their own. Rename one."
                )
            objects[name] = thing
    return objects


def _entities(manifest: Manifest) -> dict[str, Entity]:
    """Join key -> Feast's entity of it.

    An entity of Feast 0.67 has one join key. A view of several has several entities: for each key
    the one whose only key it is, else one that is made for the key.
    """
    entities: dict[str, Entity] = {}
    for model in sorted(manifest.entities, key=lambda model: (len(model.keys), model.name)):
        for key, kind in model.keys.items():
            if key not in entities:
                single = len(model.keys) == 1
                entities[key] = Entity(
                    name=model.name if single else key,
                    join_keys=[key],
                    value_type=key_field(key, kind, "").dtype.to_value_type(),
                    description=model.description if single else f"One of the keys of {model.name}",
                )
    return entities


def _by_name(entities: dict[str, Entity]) -> dict[str, Entity]:
    return {entity.name: entity for entity in entities.values()}


def _view(
    table: FeatureTable, entities: dict[str, Entity], adapter: str, schema: str
) -> FeatureView:
    keys = [
        key_field(key, kind, entities[key].description) for key, kind in table.entity.keys.items()
    ]
    features = [
        field_of(
            column.name,
            column.type,
            column.description,
            {"unit": column.unit} if column.unit else {},
        )
        for column in table.columns
    ]
    return DbtFeatureView(
        name=table.name,
        entities=[entities[key] for key in table.entity.keys],
        schema=[*keys, *features],  # with the keys, or Feast would ask the database for their types
        source=_source(table, adapter, schema),
        ttl=timedelta(days=table.ttl_days),
        description=table.description,
        tags=dict(table.tags),
        owner=table.owner,
    )


def _source(table: FeatureTable, adapter: str, schema: str) -> DataSource:
    if adapter != "postgres":
        raise ManifestError(
            f"dbt's manifest was made for the adapter {adapter!r}, for which there is no Feast "
            "source here yet. Build with the postgres target: cd dbt_project && dbt build"
        )
    return PostgreSQLSource(
        name=table.name,
        table=f"{schema}.{table.name}",
        timestamp_field="as_of",
        created_timestamp_column="known_at",
        description=table.description,
        owner=table.owner,
    )


def _service(service: Service, views: dict[str, FeatureView]) -> FeatureService:
    return FeatureService(
        name=service.name,
        features=[
            views[name] if columns is None else views[name][list(columns)]
            for name, columns in service.features.items()
        ],
        description=service.description,
        tags=dict(service.tags),
        owner=service.owner,
    )


def apply_definitions(store: FeatureStore, manifest: Manifest | None = None) -> None:
    """What `feast apply` does, in this process: register what the manifest (default: that of the
    store's own checkout) says, delete what it no longer says, and alter the online tables.

    `feast apply` itself imports definitions.py, which a process can do only once.
    """
    path = manifest_path(Path(store.repo_path).resolve().parent)
    contents = repo_contents(store, manifest or published_part(read_manifest(path)))
    definitions_loaded()
    apply_total_with_repo_instance(
        store, store.project, store.registry, contents, skip_source_validation=False
    )


def repo_contents(store: FeatureStore, manifest: Manifest) -> RepoContents:
    """What `feast apply` and `feast plan` compare the registry with."""
    objects = list(feast_objects(manifest).values())
    views = [thing for thing in objects if isinstance(thing, FeatureView)]
    return RepoContents(
        projects=[Project(name=store.project, description=store.config.project_description or "")],
        data_sources=[view.batch_source for view in views],
        entities=[*(thing for thing in objects if isinstance(thing, Entity)), DUMMY_ENTITY],
        feature_views=views,
        feature_services=[thing for thing in objects if isinstance(thing, FeatureService)],
        on_demand_feature_views=[],
        stream_feature_views=[],
        label_views=[],
        permissions=[],
    )
