"""Settings of the API: `STREAMFLOW_API_*`; where the database is: `data.database.Database`."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from data.database import SettingsError, is_loopback
from data.paths import FEATURE_LOGS

LEAST_KEY_LENGTH = 16


class Settings(BaseSettings):
    """Read from the environment when constructed. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="STREAMFLOW_API_")

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    workers: int = Field(1, ge=1, le=64)
    keys: SecretStr = SecretStr("")  # comma-separated
    keys_file: Path | None = None  # one a line; read again at every refresh, so keys can rotate
    project: str = "streamflow"  # Feast's project
    service: str = "all_features"  # the feature service of a request that names none
    feature_store: Path | None = None  # another feature_store.yaml, for another online store
    connections: int = Field(2, ge=1, le=32)  # to Postgres, for reads of features, a worker
    waiting: int = Field(512, ge=1)  # reads that may queue for a connection; more get a 503
    timeout: float = Field(0.9, gt=0, le=60)  # for a read, and for the arrival of a body
    refresh: float = Field(5.0, gt=0)  # a changed registry shows after this long at most
    max_body: int = Field(262_144, ge=1024)
    max_ids: int = Field(1000, ge=1)
    access_log: bool = True
    log_features: float = Field(0.0, ge=0, le=1)  # share of answers that are logged, for make skew
    log_folder: Path = FEATURE_LOGS  # where to: <folder>/<service>/<date>/*.parquet
    log_keys: bool = False  # log join keys as they are, instead of hashed
    log_salt: SecretStr = SecretStr("")  # of the hash; default: a file in the folder
    log_every: float = Field(30.0, gt=0)  # what is logged is written after this long at most
    docs_url: str = "http://127.0.0.1:8080/"  # where `dbt docs serve` shows the lineage

    @field_validator("docs_url")
    @classmethod
    def _an_address(cls, url: str) -> str:
        where = urlsplit(url)
        if where.scheme not in ("http", "https") or not where.hostname or where.port == 0:
            raise ValueError(f"{url!r} is no address; expected one such as http://127.0.0.1:8080/")
        return url

    def loopback_only(self) -> bool:
        """Whether `host` cannot be reached from another machine."""
        return is_loopback(self.host)

    def check(self) -> None:
        """Refuse what would open the features to the network, and logs that cannot be written.

        Raises:
            SettingsError: outside of loopback without an API key, a key that is no secret, or a
                folder of logs that cannot be written to.
        """
        keys = Keys(self)
        if not keys and not self.loopback_only():
            raise SettingsError(
                f"refusing to listen on {self.host} without an API key: set STREAMFLOW_API_KEYS "
                "or STREAMFLOW_API_KEYS_FILE, or listen on 127.0.0.1"
            )
        if self.log_features:
            try:
                self.log_folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SettingsError(
                    f"cannot make STREAMFLOW_API_LOG_FOLDER {self.log_folder}: {error.strerror}"
                ) from None
            if not os.access(self.log_folder, os.W_OK):
                raise SettingsError(f"cannot write to STREAMFLOW_API_LOG_FOLDER {self.log_folder}")


class Keys:
    """The API keys in force, as digests. Falsy when none is configured."""

    def __init__(self, settings: Settings) -> None:
        texts = settings.keys.get_secret_value().split(",")
        if settings.keys_file is not None:
            try:
                lines = settings.keys_file.read_text(encoding="utf-8").splitlines()
            except UnicodeDecodeError as error:
                raise SettingsError(
                    f"STREAMFLOW_API_KEYS_FILE {settings.keys_file} is not UTF-8 (byte "
                    f"{error.start + 1}): save it as plain text, one key a line"
                ) from None
            except OSError as error:
                reason = os.strerror(error.errno or 0)
                raise SettingsError(
                    f"cannot read STREAMFLOW_API_KEYS_FILE {settings.keys_file}: {reason}"
                ) from None
            texts += [line for line in lines if not line.lstrip().startswith("#")]
        keys = [text.strip() for text in texts if text.strip()]
        if settings.keys_file is not None and not keys:
            raise SettingsError(f"STREAMFLOW_API_KEYS_FILE {settings.keys_file} holds no key")
        if any(len(key) < LEAST_KEY_LENGTH for key in keys):
            raise SettingsError(
                f"an API key has fewer than {LEAST_KEY_LENGTH} characters; "
                "make one with: openssl rand -hex 24"
            )
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def name_of(self, presented: bytes) -> str | None:
        """Eight hex digits that name the matching key in the logs, None if none matches.

        Takes as long whichever key matches: digests of one length, and no early way out.
        """
        digest = hashlib.sha256(presented).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return digest.hex()[:8] if any(matches) else None
