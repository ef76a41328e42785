"""Feast's registry as one row in `online.registry`: readable by the serving role, no file to share.

Two writers cannot lose each other's changes: a write says which version it was made from (the
`version_id` inside the blob itself, so it cannot get out of step with it) and fails if that is not
the newest one. In memory something unique stands behind that number.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime, timezone
from pathlib import Path
from uuid import uuid4

import psycopg
from feast.infra.registry.registry_store import RegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from feast.repo_config import RegistryConfig
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

from data.database import Database
from streamflow_feast.connections import read, transaction

REMEDY = "Apply the definitions first: cd feature_repo && feast apply"

CREATE = """
create table if not exists online.registry (
    name text primary key,      -- `registry.path` of feature_store.yaml
    version bigint not null,    -- counts writes; the same number is inside the blob
    blob bytea not null,        -- feast.core.Registry, serialized
    updated_at timestamptz not null default clock_timestamp()
);
do $$ begin
    -- Set-up may grant on what is there; this comes later (data/postgres/roles.py).
    if to_regrole('streamflow_trainer') is not null then
        grant select on online.registry to streamflow_trainer;
    end if;
end $$
"""


class RegistryError(RuntimeError):
    """The registry could not be read or written; says what to do."""


class RegistryConflictError(RegistryError):
    """Another process changed the registry since it was read; nothing was written."""


class RegistryDamagedError(RegistryError):
    """The stored bytes are no registry, or not the whole of one."""


_definitions_loaded = False


def definitions_loaded() -> None:
    """Say that this process has what a registry is made from (`feast apply` and `plan`): it may
    take a damaged one for an empty one. To others that would be a project without features."""
    global _definitions_loaded
    _definitions_loaded = True


def parse(blob: bytes, version: int) -> RegistryProto:
    """The registry of a row of online.registry.

    Raises:
        RegistryDamagedError: `blob` cannot be read, or is not the whole of that version.
    """
    try:
        registry = RegistryProto.FromString(blob)
    except DecodeError as error:
        raise RegistryDamagedError(str(error)) from None
    if registry.version_id != str(version):
        raise RegistryDamagedError("it does not hold the version that its row names")
    return registry


class PostgresRegistryStore(RegistryStore):
    """Keeps the registry under the name `registry.path`.

    With `registry.serving: true` it connects as the serving role and can only be read.
    """

    def __init__(self, registry_config: RegistryConfig, repo_path: Path | None = None) -> None:
        self.settings = Database()
        self.name = registry_config.path
        self.serving = bool(getattr(registry_config, "serving", False))
        self.told = False  # that it is damaged

    def get_registry_proto(self) -> RegistryProto:
        """The stored registry.

        Raises:
            FileNotFoundError: there is none yet (Feast then writes an empty one).
            RegistryError: there is none yet and this role may not write one, or it is damaged.
        """
        stored = self._stored()
        if stored is not None:
            return stored
        if self.serving:
            raise RegistryError(f"Feast's registry {self.name!r} is empty. {REMEDY}")
        raise FileNotFoundError(self.name)

    def _stored(self) -> RegistryProto | None:
        def select(connection: psycopg.Connection) -> tuple[bytes, int] | None:
            query = "select blob, version from online.registry where name = %s"
            return connection.execute(query, [self.name], binary=True).fetchone()

        try:
            row = read(self.settings, select, serving=self.serving)
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return None
        if row is None:
            return None
        try:
            return _read_once(parse(*row))
        except RegistryDamagedError as damaged:
            what = f"Feast's registry {self.name!r} is damaged ({damaged})"
            if self.serving or not _definitions_loaded:
                remedy = "Make it anew from dbt's manifest with: cd feature_repo && feast apply"
                raise RegistryDamagedError(f"{what}. {remedy}") from None
            if not self.told:
                print(f"{what}: an apply makes it anew from dbt's manifest.")
            self.told = True
            return RegistryProto(version_id=str(row[1]))

    def update_registry_proto(self, registry_proto: RegistryProto) -> None:
        """Replace the stored registry by `registry_proto`, which becomes the next version.

        One that says nothing new is not written: an apply of what is applied changes nothing, and
        says so.

        Raises:
            RegistryConflictError: it is not made from the newest version.
        """
        stored = None if self.serving else self._stored()
        if stored is not None and _content(stored) == _content(registry_proto):
            registry_proto.version_id = stored.version_id
            registry_proto.last_updated.CopyFrom(stored.last_updated)
            print("Nothing changed in the registry.")
            return
        base = int(registry_proto.version_id.partition(" ")[0] or 0)
        new = RegistryProto()
        new.CopyFrom(registry_proto)
        new.version_id = str(base + 1)
        new.last_updated.FromDatetime(datetime.now(timezone.utc))
        with self._writing() as connection:
            if connection.execute("select to_regclass('online.registry')").fetchone() == (None,):
                # Two at once: `if not exists` alone can fail on the catalog's unique index.
                connection.execute("select pg_advisory_xact_lock(hashtext('online.registry'))")
                connection.execute(CREATE)
            written = connection.execute(
                """
                insert into online.registry as stored (name, version, blob)
                select %(name)s, %(base)s + 1, %(blob)s
                where %(base)s = 0 or exists (
                    select from online.registry where name = %(name)s and version = %(base)s
                )
                on conflict (name) do update
                set version = excluded.version, blob = excluded.blob, updated_at = clock_timestamp()
                where stored.version = %(base)s
                """,
                {"name": self.name, "base": base, "blob": new.SerializeToString()},
            )
            if written.rowcount != 1:
                raise RegistryConflictError(
                    f"Feast's registry {self.name!r} was changed by another process (this one "
                    f"read version {base}); nothing was written. Run the same command again."
                )
        registry_proto.version_id = new.version_id
        _read_once(registry_proto)
        registry_proto.last_updated.CopyFrom(new.last_updated)

    def teardown(self) -> None:
        """Remove the registry's row."""
        with self._writing() as connection:
            if connection.execute("select to_regclass('online.registry')").fetchone() != (None,):
                connection.execute("delete from online.registry where name = %s", [self.name])

    def _writing(self) -> AbstractContextManager[psycopg.Connection]:
        if self.serving:
            raise RegistryError(f"The serving role reads Feast's registry only. {REMEDY}")
        return transaction(self.settings, "feast registry")


def _read_once(registry: RegistryProto) -> RegistryProto:
    """The registry, with a version that no other in this process has: Feast remembers what it found
    in one by its version and place in memory, which another one may have had before it."""
    registry.version_id = f"{registry.version_id} {uuid4().hex}"
    return registry


# What Feast writes anew at every apply, of things that have not changed.
STAMPS = {"created_timestamp", "last_updated_timestamp", "current_version_number"}


def _content(registry: RegistryProto) -> bytes:
    """What a registry says, whatever the order of its objects and the times they were written."""
    plain = RegistryProto()
    plain.CopyFrom(registry)
    plain.ClearField("version_id")
    plain.ClearField("last_updated")
    _strip(plain)
    for field, values in plain.ListFields():
        if field.is_repeated and field.message_type:
            values.sort(key=lambda value: value.SerializeToString(deterministic=True))
    return plain.SerializeToString(deterministic=True)


def _strip(message: Message) -> None:
    for field, value in message.ListFields():
        if field.name in STAMPS:
            message.ClearField(field.name)
        elif not field.message_type:
            continue
        elif not field.is_repeated:
            _strip(value)
            if not value.ByteSize():  # it held stamps alone, and was not there at first
                message.ClearField(field.name)
        elif not field.message_type.GetOptions().map_entry:
            for part in value:
                _strip(part)
        elif field.message_type.fields_by_name["value"].message_type:
            for part in value.values():
                _strip(part)
