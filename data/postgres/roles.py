"""Who may do what in the database: a role for each part of the work, with the rights it needs.

    owner         sets up, erases, prunes, backs up     STREAMFLOW_PG_USER
    loader        drops into the raw tables
    builder       dbt: reads raw, owns features and published views, publishes
    materializer  published to online, Feast's registry
    trainer       reads published
    auditor       reads all that readers see; notes what it found
    serving       reads online                          STREAMFLOW_PG_SERVING_USER

Those without a setting are called streamflow_<name> and cannot log in: they are taken on. With
STREAMFLOW_PG_ROLES=on each step takes on its own, and a login of its own (STREAMFLOW_PG_STEPS_USER,
made by set-up where STREAMFLOW_PG_STEPS_PASSWORD is set) needs no right of the owner's.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import psycopg
from psycopg import sql

from data.database import STEP_ROLES, Database

RIGHTS = Path(__file__).parent / "roles.sql"
# Schema -> whose all that steps make there is, once the steps take on their roles.
OWNED = {
    "staging": "builder", "features": "builder", "published": "builder", "online": "materializer",
}  # fmt: skip
# (whoever makes it, schema) -> who may read what comes later
LATER = {
    ("builder", "published"): ("materializer", "trainer", "auditor"),
    ("materializer", "online"): ("serving", "auditor"),
}


class RolesError(RuntimeError):
    """The roles could not be made; the text says what the administrator has to do."""


def have_roles(connection: psycopg.Connection, settings: Database) -> bool:
    """Make the roles that are missing and give all of them their rights; whether that was allowed.

    An owner who may not make roles works without them; the serving role is made before.

    Raises:
        RolesError: it was not allowed, and STREAMFLOW_PG_ROLES is on.
    """
    names = {name: sql.Identifier(f"streamflow_{name}") for name in STEP_ROLES}
    names["serving"] = sql.Identifier(settings.serving_user)
    try:
        with connection.transaction():
            for name in STEP_ROLES:
                _have(connection, f"streamflow_{name}")
            if settings.steps_password.get_secret_value():
                _have_login(connection, settings)
            connection.execute(sql.SQL(RIGHTS.read_text(encoding="utf-8")).format(**names))
            _let_read(connection, settings, names)
            if settings.roles:
                _hand_over(connection)
        return True
    except psycopg.errors.InsufficientPrivilege as error:
        if settings.roles:
            raise RolesError(
                f"{settings.user!r} may not make the roles that STREAMFLOW_PG_ROLES=on asks for "
                f"({error}). Let an administrator run: alter role {settings.user} createrole; or "
                "leave STREAMFLOW_PG_ROLES out: then every step is the owner's"
            ) from error
    _serve(connection, names["serving"])
    return False


def _serve(connection: psycopg.Connection, serving: sql.Identifier) -> None:
    """The rights of the API's role alone."""
    rights = RIGHTS.read_text(encoding="utf-8")
    start, end = rights.index("-- serving:"), rights.index("-- loader:")
    connection.execute(sql.SQL(rights[start:end]).format(serving=serving))


def _have(connection: psycopg.Connection, role: str) -> None:
    """Make a role that cannot log in, unless it is there, also where two set-ups do so at once."""
    if not connection.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone():
        raced = psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation
        with contextlib.suppress(*raced), connection.transaction():
            connection.execute(sql.SQL("create role {} nologin").format(sql.Identifier(role)))
    # So that who set this up can hand over to the role, and keep up what is the role's.
    member = (
        "select pg_has_role(current_user, %s, 'set') and pg_has_role(current_user, %s, 'USAGE')"
    )
    if connection.execute(member, [role, role]).fetchone() != (True,):
        connection.execute(
            sql.SQL("grant {} to current_user with inherit true, set true").format(
                sql.Identifier(role)
            )
        )


def _have_login(connection: psycopg.Connection, settings: Database) -> None:
    """The login of the steps: a member of their roles, with the password of the settings."""
    role = settings.steps_user
    login = sql.Identifier(role)
    if not connection.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone():
        connection.execute(sql.SQL("create role {}").format(login))
    password = settings.steps_password.get_secret_value().encode()
    verifier = connection.pgconn.encrypt_password(password, role.encode(), b"scram-sha-256")
    connection.execute(
        sql.SQL("alter role {} login password {}").format(login, sql.Literal(verifier.decode()))
    )
    for name in STEP_ROLES:
        connection.execute(
            sql.SQL("grant {} to {}").format(sql.Identifier(f"streamflow_{name}"), login)
        )
    # Where Dagster keeps its runs (orchestration/defs/dagster.compose.yaml), and nobody else.
    connection.execute(sql.SQL("grant {} to current_user").format(login))
    connection.execute("create schema if not exists dagster")
    connection.execute(sql.SQL("alter schema dagster owner to {}").format(login))
    kept = connection.execute(
        "select relname from pg_class where relnamespace = 'dagster'::regnamespace"
        " and relkind = 'r' and relowner <> %s::regrole",
        [f'"{role}"'],
    ).fetchall()
    for (name,) in kept:
        connection.execute(
            sql.SQL("alter table {} owner to {}").format(sql.Identifier("dagster", name), login)
        )


def _let_read(
    connection: psycopg.Connection, settings: Database, names: dict[str, sql.Identifier]
) -> None:
    """What is made later can be read by whom it is for, whichever of the two makes it."""
    for (maker, schema), readers in LATER.items():
        for who in (names[maker], sql.Identifier(settings.user)):
            connection.execute(
                sql.SQL(
                    "alter default privileges for role {} in schema {} grant select on tables to {}"
                ).format(who, sql.Identifier(schema), sql.SQL(", ").join(names[r] for r in readers))
            )
    registry = connection.execute("select to_regclass('online.registry')").fetchone()
    if registry != (None,):
        connection.execute(
            sql.SQL("grant select on online.registry to {}").format(names["trainer"])
        )


def _hand_over(connection: psycopg.Connection) -> None:
    """Give what the owner had made in the steps' schemas to their roles, once."""
    found = connection.execute(
        "select nspname, relname, relkind from pg_class"
        " join pg_namespace on pg_namespace.oid = relnamespace"
        " where nspname = any(%s) and relkind in ('r', 'p', 'v', 'm')"
        " and relowner <> ('streamflow_' || case nspname when 'online' then 'materializer'"
        " else 'builder' end)::regrole",
        [list(OWNED)],
    ).fetchall()
    for schema, name, kind in found:
        connection.execute(
            sql.SQL("alter {} {} owner to {}").format(
                sql.SQL({"v": "view", "m": "materialized view"}.get(kind, "table")),
                sql.Identifier(schema, name),
                sql.Identifier(f"streamflow_{OWNED[schema]}"),
            )
        )
