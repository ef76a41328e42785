"""Where the database is: every connection setting, once, with its default.

Production sets the environment variables; dbt's `profiles.yml` reads the same names.
"""

from __future__ import annotations

from typing import Any

import psycopg
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

import data.secret_files  # noqa: F401  (sets the passwords that are given by file)


class Database(BaseSettings):
    """Connection settings, read from `STREAMFLOW_PG_*` when constructed."""

    model_config = SettingsConfigDict(env_prefix="STREAMFLOW_PG_")

    host: str = "127.0.0.1"
    port: int = 15432
    database: str = "streamflow"
    user: str = "streamflow"
    password: SecretStr = SecretStr("streamflow")
    sslmode: str = "prefer"
    serving_user: str = "streamflow_serving"
    serving_password: SecretStr = SecretStr("streamflow_serving")

    def conninfo(self, *, serving: bool = False, **more: Any) -> str:
        """libpq connection string, as the owner or as the read-only serving role.

        `more` are further libpq keywords, for example `application_name` or `connect_timeout`.
        Every session runs in UTC.
        """
        user, password = (
            (self.serving_user, self.serving_password) if serving else (self.user, self.password)
        )
        options = f"-c TimeZone=UTC {more.pop('options', '')}".strip()
        return psycopg.conninfo.make_conninfo(
            host=self.host,
            port=self.port,
            dbname=self.database,
            user=user,
            password=password.get_secret_value(),
            sslmode=self.sslmode,
            options=options,
            **more,
        )

    def connect(self, **more: Any) -> psycopg.Connection:
        """One connection as the owner; a transaction opens with the first statement."""
        return psycopg.connect(self.conninfo(**more))
