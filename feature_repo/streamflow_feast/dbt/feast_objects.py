"""Feast's objects, made from what dbt's manifest says.

Nothing is listed here: a feature view is a dbt model with `meta.feast`, a feature service an
exposure with `meta.feast.feature_service`, an on-demand view a function of on_demand.py.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
import warnings
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path

from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, Project, PushSource
from feast.base_feature_view import BaseFeatureView
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_contents import RepoContents
from feast.repo_operations import apply_total_with_repo_instance

from data.paths import FEATURE_REPO
from streamflow_feast.dbt.manifest import (
    FeatureTable,
    Manifest,
    ManifestError,
    Service,
    manifest_path,
    read_manifest,
)
from streamflow_feast.dbt.publications import published_part
from streamflow_feast.on_demand import reading, try_out
from streamflow_feast.registry import definitions_loaded
from streamflow_feast.views import feature_field, key_field

SOURCES = {"postgres": PostgreSQLSource, "spark": SparkSource}  # by dbt's adapter
ON_DEMAND = "on_demand.py"  # in the feature repo

# At every apply; what it warns of, pandas mode on large frames, is not what is used here.
warnings.filterwarnings("ignore", "On demand feature view is an experimental", RuntimeWarning)
warnings.filterwarnings("ignore", "The spark data source API is an experimental", RuntimeWarning)


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


Objects = dict[str, Entity | DataSource | FeatureView | OnDemandFeatureView | FeatureService]


def feast_objects(
    manifest: Manifest, schema: str = "published", on_demand: Path = FEATURE_REPO / ON_DEMAND
) -> Objects:
    """Every Feast object of the project, by its module attribute in definitions.py.

    `schema` is where the views' tables lie; see point_in_time.HISTORY. `on_demand` is the file
    with the on-demand feature views; there need not be one.

    Raises:
        ManifestError: dbt ran on an engine that this project has no Feast source for, two
            objects have one name, or a service names an on-demand view that there is not.
    """
    entities = _entities(manifest)
    views = {
        table.name: _view(table, entities, manifest.adapter, schema) for table in manifest.tables
    }
    computed, left_out = _on_demand(on_demand, manifest)
    services = {
        service.name: _service(service, {**views, **computed}, left_out)
        for service in manifest.services
    }
    # Feast deletes what it is not shown, those of on-demand views included.
    requests = {
        name: source
        for view in computed.values()
        for name, source in view.source_request_sources.items()
    }
    objects: Objects = {}
    for kind, found in (
        ("entity", _by_name(entities)),
        ("feature view", views),
        ("on-demand feature view", computed),
        ("request source", requests),
        ("feature service", services),
    ):
        for name, thing in found.items():
            if name in objects:
                raise ManifestError(
                    f"There is more than one Feast object named {name}, one of them a {kind}: "
                    "entities, feature tables, on-demand views and exposures need names of their "
                    "own. Rename one."
                )
            objects[name] = thing
    return objects


def _on_demand(
    path: Path, manifest: Manifest
) -> tuple[dict[str, OnDemandFeatureView], dict[str, str]]:
    """The on-demand views of a file that can be computed from what the manifest holds, and of the
    others what they lack, which is said on stderr."""
    if not path.exists():
        return {}, {}
    spec = importlib.util.spec_from_file_location("streamflow_on_demand", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with reading(manifest):
        spec.loader.exec_module(module)
    there = {table.name: {column.name for column in table.columns} for table in manifest.tables}
    views, left_out = {}, {}
    for view in vars(module).values():
        if not isinstance(view, OnDemandFeatureView):
            continue
        if view.mode != "python" or view.singleton:
            raise ManifestError(
                f'{path.name}: {view.name} has to have mode="python" and no singleton, so that a '
                "training set, Feast and the API compute it with the same code"
            )
        lacking = [
            f"{source.name}.{field.name}"
            for source in view.source_feature_view_projections.values()
            for field in source.features
            if field.name not in there.get(source.name, ())
        ]
        if lacking:
            left_out[view.name] = lacking[0]
        else:
            view.infer_features = partial(try_out, view)
            view._schema_or_udf_changed = partial(_changed, view)
            views[view.name] = view
    for name, what in left_out.items():
        print(f"{path.name}: {name} is left out: {what} is not published", file=sys.stderr)
    return views, left_out


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
    features = [feature_field(column) for column in table.columns]
    return DbtFeatureView(
        name=table.name,
        entities=[entities[key] for key in table.entity.keys],
        schema=[*keys, *features],  # with the keys, or Feast would ask the database for their types
        source=_pushable(table, _source(table, adapter, schema)),
        ttl=timedelta(days=table.ttl_days),
        description=table.description,
        tags=dict(table.tags),
        owner=table.owner,
    )


def _pushable(table: FeatureTable, source: DataSource) -> DataSource:
    """For `store.push("<table>_push", rows)`, where the model's meta.feast says push: true."""
    return PushSource(name=f"{table.name}_push", batch_source=source) if table.push else source


def _source(table: FeatureTable, adapter: str, schema: str) -> DataSource:
    if adapter not in SOURCES:
        raise ManifestError(
            f"dbt's manifest was made for the adapter {adapter!r}, for which there is no Feast "
            f"source here. Build with one of the targets {', '.join(SOURCES)}: "
            "cd dbt_project && dbt build"
        )
    return SOURCES[adapter](
        name=table.name,
        table=f"{schema}.{table.name}",
        timestamp_field="as_of",
        created_timestamp_column="known_at",
        description=table.description,
        owner=table.owner,
    )


def _service(
    service: Service,
    views: Mapping[str, FeatureView | OnDemandFeatureView],
    left_out: Mapping[str, str],
) -> FeatureService:
    for name in service.on_demand:
        if name not in left_out and not isinstance(views.get(name), OnDemandFeatureView):
            raise ManifestError(
                f"exposure {service.name}: meta.feast.on_demand names {name}, which is no "
                f"on-demand feature view of feature_repo/{ON_DEMAND}. Correct the exposure, then: "
                "cd dbt_project && dbt build"
            )
    return FeatureService(
        name=service.name,
        features=[
            *(
                views[name] if columns is None else views[name][list(columns)]
                for name, columns in service.features.items()
            ),
            *(_bare(views[name]) for name in service.on_demand if name not in left_out),
        ],
        description=service.description,
        tags=dict(service.tags),
        owner=service.owner,
    )


def _bare(view: OnDemandFeatureView) -> OnDemandFeatureView:
    """The view as Feast 0.67 reads it from its registry: it writes the fields of an on-demand view
    with descriptions and tags, reads them without, and then finds others than the service names,
    and a change at every apply."""
    alike = copy.copy(view)
    alike.features = [Field(name=field.name, dtype=field.dtype) for field in view.features]
    alike.projection = copy.copy(view.projection)
    alike.projection.features = alike.features
    return alike


def _changed(view: OnDemandFeatureView, registered: BaseFeatureView) -> bool:
    return bool(_bare(view)._schema_or_udf_changed(registered))


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
    on_demand = Path(store.repo_path) / ON_DEMAND
    objects = list(feast_objects(manifest, on_demand=on_demand).values())
    views = [thing for thing in objects if isinstance(thing, FeatureView)]
    return RepoContents(
        projects=[Project(name=store.project, description=store.config.project_description or "")],
        data_sources=[
            *(view.batch_source for view in views),
            *(view.stream_source for view in views if view.stream_source),
            *(thing for thing in objects if isinstance(thing, DataSource)),
        ],
        entities=[*(thing for thing in objects if isinstance(thing, Entity)), DUMMY_ENTITY],
        feature_views=views,
        feature_services=[thing for thing in objects if isinstance(thing, FeatureService)],
        on_demand_feature_views=[
            thing for thing in objects if isinstance(thing, OnDemandFeatureView)
        ],
        stream_feature_views=[],
        label_views=[],
        permissions=[],
    )
