"""Feast's registry in one row: no update is lost, and the serving role can read it."""

from __future__ import annotations

import psycopg
import pytest
from feast import FeatureStore, RepoConfig
from feast.errors import FeatureViewNotFoundException
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from feast.repo_config import RegistryConfig

from streamflow_feast.dbt.feast_objects import apply_definitions
from streamflow_feast.dbt.manifest import parse_manifest
from streamflow_feast.registry import PostgresRegistryStore, RegistryConflictError, RegistryError
from tests.feast.conftest import REPO
from tests.feast.offline import VIEWS, manifest

ONE = {"user_features": VIEWS["user_features"]}


def serving_store() -> FeatureStore:
    """As the API reads: with the role that can only read."""
    return FeatureStore(
        config=RepoConfig(
            project="streamflow",
            provider="local",
            registry={
                "registry_store_type": "streamflow_feast.registry.PostgresRegistryStore",
                "path": "streamflow",
                "serving": True,
            },
            online_store={
                "type": "streamflow_feast.online.store.StreamflowOnlineStore",
                "serving": True,
            },
            offline_store={"type": "streamflow_feast.offline.store.StreamflowOfflineStore"},
            batch_engine={"type": "streamflow_feast.materialize.engine.StreamflowEngine"},
            entity_key_serialization_version=3,
        )
    )


def test_a_second_process_sees_what_the_first_applied(store):
    names = {view.name for view in FeatureStore(repo_path=str(REPO)).list_feature_views()}
    assert names == set(VIEWS)


def test_of_two_writers_the_second_fails_and_loses_nothing(store):
    first, second = FeatureStore(repo_path=str(REPO)), FeatureStore(repo_path=str(REPO))
    second.registry.refresh("streamflow")
    first.registry.delete_feature_service("small", "streamflow")
    with pytest.raises(RegistryConflictError, match="Run the same command again"):
        second.registry.delete_feature_view("user_features", "streamflow")
    again = FeatureStore(repo_path=str(REPO))
    assert {service.name for service in again.list_feature_services()} == {"all_features"}
    assert again.get_feature_view("user_features").name == "user_features"
    # The same command again: it reads first.
    again.registry.delete_feature_view("user_features", "streamflow")
    with pytest.raises(FeatureViewNotFoundException):
        FeatureStore(repo_path=str(REPO)).get_feature_view("user_features")


def test_a_writer_that_saw_no_registry_does_not_replace_one(store):
    registry = PostgresRegistryStore(RegistryConfig(path="streamflow"))
    with pytest.raises(RegistryConflictError):
        registry.update_registry_proto(RegistryProto())
    assert FeatureStore(repo_path=str(REPO)).list_feature_views()


def test_a_writer_from_before_a_teardown_fails(store):
    other = FeatureStore(repo_path=str(REPO))
    other.list_feature_views()
    store.teardown()
    with pytest.raises(RegistryConflictError):
        other.registry.delete_feature_view("user_features", "streamflow")


def test_the_serving_role_reads_registry_and_features_and_writes_nothing(
    offline, store, database, now
):
    from tests.feast.offline import JAN

    offline.publish(offline.month(JAN, ["u1"]))
    store.materialize_incremental(now)
    serving = serving_store()
    service = serving.get_feature_service("all_features")
    got = serving.get_online_features(service, [{"user_id": "u1"}]).to_dict()
    assert got == store.get_online_features(service, [{"user_id": "u1"}]).to_dict()
    with pytest.raises(RegistryError, match="reads Feast's registry only"):
        apply_definitions(serving, parse_manifest(manifest(ONE)))
    with psycopg.connect(database.conninfo(serving=True), autocommit=True) as connection:
        for statement in (
            "delete from online.registry",
            "update online.user_features set user_gender = ''",
            "select 1 from features.user_features",
            "select 1 from raw.users",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_the_serving_role_is_told_when_nothing_is_applied_yet(database):
    with pytest.raises(RegistryError, match="feast apply"):
        serving_store().list_feature_views()


def test_a_server_that_is_not_there_is_named(monkeypatch, database, free_port):
    from streamflow_feast.connections import DatabaseUnreachable

    port = free_port()
    wanted = rf":{port} does not answer \(Connection refused\)\. Start it with `make up`"
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("STREAMFLOW_PG_PORT", str(port))
        with pytest.raises(DatabaseUnreachable, match=wanted):
            FeatureStore(repo_path=str(REPO)).list_feature_views()


def test_registries_of_one_process_have_versions_of_their_own(database, store) -> None:
    """Feast remembers what it found by version and place in memory: it answered with the views of
    a registry that was gone, in whose place another had come."""
    versions = {FeatureStore(repo_path=str(REPO)).registry.proto().version_id for _ in range(3)}
    assert len(versions) == 3
    with database.connect() as connection:
        (stored,) = connection.execute("select version from online.registry").fetchone() or (0,)
    assert {version.partition(" ")[0] for version in versions} == {str(stored)}
