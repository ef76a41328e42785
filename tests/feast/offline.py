"""Hand-made feature tables for the Feast tests: published like dbt's, without dbt's seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from data.database import Database

Views = Mapping[str, Mapping[str, str]]
# (keys, as_of, features): one key as it is, several as a tuple; features None for a retraction
Version = tuple[Any, datetime, Mapping[str, Any] | None]

VIEWS: Views = {
    "usage_features": {"watch_hours_30d": "double precision", "skips_7d": "bigint"},
    "user_features": {"user_gender": "text", "is_senior": "boolean"},
    "payment_features": {"failed_payments_90d": "bigint"},
    "subscription_features": {"monthly_fee": "double precision"},  # read by on_demand.py
}
# Views of other entities than user, for the tests that want them.
ENTITIES: Mapping[str, Mapping[str, str]] = {
    "user": {"user_id": "text"},
    "device": {"device_id": "text"},
    "user_device": {"user_id": "text", "device_id": "text"},
    "account": {"account_id": "bigint", "region_id": "uuid"},
}
ENTITY_OF = {
    "device_features": "device",
    "user_device_features": "user_device",
    "account_features": "account",
}
OTHERS: Views = {
    "device_features": {"users_30d": "bigint", "device_watch_hours_30d": "double precision"},
    "user_device_features": {
        "watch_share_30d": "double precision",
        "last_seen_at": "timestamp with time zone",
    },
    "account_features": {"seats": "bigint"},
}
VERSION = {
    "as_of": "timestamp with time zone",
    "known_at": "timestamp with time zone",
    "is_retracted": "boolean",
}


def day(text: str) -> datetime:
    """Midnight UTC of an ISO date."""
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


JAN, FEB, MAR = day("2024-01-31"), day("2024-02-29"), day("2024-03-31")


def keys_of(view: str) -> Mapping[str, str]:
    """The join keys of a view, with their types."""
    return ENTITIES[ENTITY_OF.get(view, "user")]


def _spines(views: Views) -> dict[str, Any]:
    """A model for each entity of the views."""
    return {
        f"model.streamflow.spine_{entity}": {
            "resource_type": "model",
            "name": f"spine_{entity}",
            "unique_id": f"model.streamflow.spine_{entity}",
            "description": f"What a {entity} is.",
            "config": {"meta": {"entity": {"name": entity, "join_keys": dict(ENTITIES[entity])}}},
            "columns": {},
        }
        for entity in sorted({ENTITY_OF.get(view, "user") for view in views})
    }


def manifest(views: Views = VIEWS, ttl_days: Mapping[str, float] | None = None) -> dict[str, Any]:
    """A manifest.json as dbt writes it, with what this project reads of it."""
    nodes = _spines(views)
    for name, features in views.items():
        unique_id = f"model.streamflow.{name}"
        nodes[unique_id] = {
            "resource_type": "model",
            "name": name,
            "unique_id": unique_id,
            "original_file_path": f"models/features/{name}.sql",
            "description": f"The {name} of a user.",
            "tags": ["monthly"],
            "config": {
                "contract": {"enforced": True},
                "meta": {
                    "owner": "feature-platform",
                    "feast": {
                        "entity": ENTITY_OF.get(name, "user"),
                        "ttl_days": (ttl_days or {}).get(name, 0),
                        "tags": {"domain": "churn"},
                    },
                },
            },
            "columns": {
                column: {
                    "name": column,
                    "data_type": kind,
                    "description": f"What {column} means.",
                    "config": {"meta": {"unit": "units"} if column in features else {}},
                }
                for column, kind in {**keys_of(name), **VERSION, **features}.items()
            },
        }
        nodes[f"test.streamflow.grain_{name}"] = {
            "resource_type": "test",
            "name": f"grain_{name}",
            "unique_id": f"test.streamflow.grain_{name}",
            "attached_node": unique_id,
            "test_metadata": {
                "name": "grain",
                "kwargs": {"columns": [*keys_of(name), "as_of", "known_at"]},
            },
        }
    first = next(iter(views))
    services = {
        "all_features": {"feature_service": True},
        "small": {
            "feature_service": True,
            "features": {first: [next(iter(views[first]))]},
        },
    }
    exposures = {
        f"exposure.streamflow.{name}": {
            "resource_type": "exposure",
            "name": name,
            "unique_id": f"exposure.streamflow.{name}",
            "original_file_path": "models/exposures.yml",
            "description": f"The service {name}.",
            "owner": {"name": "Team", "email": "team@streamflow.example"},
            "config": {"meta": {"feast": feast}},
            "depends_on": {
                "nodes": [
                    f"model.streamflow.{view}"
                    for view in (views if name == "all_features" else [first])
                ]
            },
        }
        for name, feast in services.items()
    }
    return {
        "metadata": {"adapter_type": "postgres"},
        "nodes": nodes,
        "exposures": exposures,
    }


class Offline:
    """The offline side of a test: feature tables, their published views, publications."""

    def __init__(self, settings: Database, target: Path) -> None:
        self.settings, self.target = settings, target
        self.views: dict[str, dict[str, str]] = {}
        self.published = 0

    def connect(self) -> psycopg.Connection:
        return self.settings.connect()

    def define(self, views: Views = VIEWS, ttl_days: Mapping[str, float] | None = None) -> None:
        """Make or alter the feature tables, and write dbt's manifest."""
        with self.connect() as connection:
            for name, features in views.items():
                self._table(connection, name, features)
        self.views = {name: dict(features) for name, features in views.items()}
        self.target.mkdir(parents=True, exist_ok=True)
        (self.target / "manifest.json").write_text(json.dumps(manifest(views, ttl_days)))

    def _table(
        self, connection: psycopg.Connection, name: str, features: Mapping[str, str]
    ) -> None:
        table = sql.Identifier("features", name)
        if name not in self.views:
            own = {**keys_of(name), **VERSION}
            columns = ", ".join(f"{column} {kind} not null" for column, kind in own.items())
            key = ", ".join([*keys_of(name), "as_of", "known_at"])
            connection.execute(
                sql.SQL("create table {} ({}, primary key ({}))").format(
                    table, sql.SQL(columns), sql.SQL(key)
                )
            )
        old = self.views.get(name, {})
        for column, kind in features.items():
            if column in old and old[column] == kind:
                continue
            change = "alter column {0} type {1}" if column in old else "add column {0} {1}"
            connection.execute(
                sql.SQL("drop view if exists {}").format(sql.Identifier("published", name))
            )
            connection.execute(
                sql.SQL("alter table {} " + change.format("{}", "{}")).format(
                    table, sql.Identifier(column), sql.SQL(kind)
                )
            )
        connection.execute(
            sql.SQL("drop view if exists {}").format(sql.Identifier("published", name))
        )
        connection.execute(
            sql.SQL(
                "create view {} as select {} from {}"
                " where known_at <= (select max(known_at) from ledger.publications)"
            ).format(
                sql.Identifier("published", name),
                sql.SQL(", ").join(
                    sql.Identifier(column) for column in {**keys_of(name), **VERSION, **features}
                ),
                table,
            )
        )

    def build(self, versions: Mapping[str, Sequence[Version]]) -> datetime:
        """Append versions that nobody may see yet; their known_at."""
        self.published += 1
        known_at = datetime(2025, 1, 1, tzinfo=timezone.utc) + timedelta(hours=self.published)
        with self.connect() as connection:
            connection.execute(
                "insert into ledger.builds (known_at, invocation_id, status, load_from, load_to,"
                " recompute) values (%s, %s, 'running', 0, 0, false)",
                [known_at, f"invocation-{self.published}"],
            )
            for name, rows in versions.items():
                columns = [*keys_of(name), *VERSION, *self.views[name]]
                with (
                    connection.cursor() as cursor,
                    cursor.copy(
                        sql.SQL("copy {} ({}) from stdin").format(
                            sql.Identifier("features", name),
                            sql.SQL(", ").join(map(sql.Identifier, columns)),
                        )
                    ) as copy,
                ):
                    for keys, as_of, features in rows:
                        values = [(features or {}).get(column) for column in self.views[name]]
                        own = keys if isinstance(keys, tuple) else (keys,)
                        copy.write_row((*own, as_of, known_at, features is None, *values))
        return known_at

    def publish(self, versions: Mapping[str, Sequence[Version]]) -> datetime:
        """Append versions and publish them, as a good dbt build does; their known_at."""
        known_at = self.build(versions)
        with self.connect() as connection:
            connection.execute(
                "insert into ledger.publications (known_at, invocation_id, code_version, load_to,"
                " cadence, rows_appended, definitions, tests_run)"
                " values (%s, %s, 'tests', 0, 'drops', '{}', '{}', 1)",
                [known_at, f"invocation-{self.published}"],
            )
            connection.execute("update ledger.builds set status = 'published'")
        return known_at

    def month(self, as_of: datetime, users: Sequence[str], shift: float = 0) -> dict[str, list]:
        """A row a view and user for `publish`, with nulls, and values that differ by `shift`."""
        return {
            name: [
                (user, as_of, {c: _value(kind, user, number, shift) for c, kind in columns.items()})
                for number, user in enumerate(users)
            ]
            for name, columns in self.views.items()
        }

    def online(self, name: str) -> dict[Any, tuple[Any, ...]]:
        """keys -> (as_of, known_at, *features) of the online table."""
        with self.connect() as connection:
            rows = connection.execute(
                sql.SQL("select {}, as_of, known_at, {} from {}").format(
                    sql.SQL(", ").join(map(sql.Identifier, keys_of(name))),
                    sql.SQL(", ").join(map(sql.Identifier, self.views[name])),
                    sql.Identifier("online", name),
                )
            ).fetchall()
        return dict(_apart(name, row) for row in rows)

    def expected(self, name: str, end: datetime | None = None) -> dict[Any, tuple[Any, ...]]:
        """What should be online, worked out in Python from every published version."""
        end = end or datetime(2100, 1, 1, tzinfo=timezone.utc)
        with self.connect() as connection:
            rows = connection.execute(
                sql.SQL("select {}, as_of, known_at, is_retracted, {} from {}").format(
                    sql.SQL(", ").join(map(sql.Identifier, keys_of(name))),
                    sql.SQL(", ").join(map(sql.Identifier, self.views[name])),
                    sql.Identifier("published", name),
                )
            ).fetchall()
        newest: dict[tuple[Any, datetime], tuple[Any, ...]] = {}
        for keys, (as_of, known_at, retracted, *features) in sorted(
            (_apart(name, row) for row in rows), key=lambda row: row[1][1]
        ):
            if as_of <= end:
                newest[keys, as_of] = (known_at, retracted, *features)
        standing = {key: row for key, row in newest.items() if not row[1]}
        if not standing:
            return {}
        last = max(as_of for _, as_of in standing)
        return {
            keys: (as_of, row[0], *row[2:])
            for (keys, as_of), row in standing.items()
            if as_of == last
        }

    def ledger(self, name: str) -> list[dict[str, Any]]:
        """The materializations of a view, oldest first, without the marks of altered tables."""
        with self.connect() as connection:
            cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
            return cursor.execute(
                "select * from ledger.materializations where view_name = %s"
                " and publication > 'epoch' order by materialization_id",
                [name],
            ).fetchall()


def _apart(view: str, row: Sequence[Any]) -> tuple[Any, tuple[Any, ...]]:
    """The keys of a row (one as it is, several as a tuple) and the rest."""
    count = len(keys_of(view))
    return (row[0] if count == 1 else tuple(row[:count])), tuple(row[count:])


def _value(kind: str, user: str, number: int, shift: float) -> Any:
    if number % 7 == 3:
        return None
    return {
        "double precision": number * 0.1 + shift,
        "bigint": 2**53 + 1 + number + int(shift),  # above what a double can hold
        "integer": number + int(shift),
        "real": 0.5 * number,
        "text": f"{user}'s é\"\n{shift}",
        "boolean": (number + int(shift)) % 2 == 0,
    }[kind]
