"""What a process knows and keeps fresh: the registry, the publications, the keys, the store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

import psycopg
from feast.repo_config import RepoConfig, load_repo_config

from data.database import Database
from data.paths import FEATURE_REPO
from serving.answers import Answers, micros
from serving.catalogue import Catalogue, Row, Service, read_catalogue
from serving.feature_log import FeatureLog
from serving.problems import Problem
from serving.settings import Keys, Settings, SettingsError
from serving.store.base import KeyColumns, MismatchError, Store, end
from serving.store.feast import FeastStore
from serving.store.link import Link
from serving.store.postgres import PostgresStore
from serving.store.reach import Reach
from streamflow_feast.registry import RegistryDamagedError, parse

log = logging.getLogger("serving.state")

OWN_STORE = "streamflow_feast.online.store.StreamflowOnlineStore"
# A key that nobody has, of each type.
NOBODY: dict[str, object] = {"text": "-", "bigint": -1, "uuid": UUID(int=0)}
PAGE_TIMEOUT = 5.0  # seconds, for the page's plots and past values


class State:
    """Everything the requests of a process share. `start` needs no database to be there."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.database = settings, database
        self.keys = Keys(settings)
        yaml = settings.feature_store or FEATURE_REPO / "feature_store.yaml"
        self.feast: RepoConfig = load_repo_config(FEATURE_REPO, yaml)
        self.registry_name = str(self.feast.registry.path)
        self.damaged = ""  # what is wrong with the stored registry; the one before stays in use
        self._registry_seen: tuple[int, str] | None = None
        self.own_store = self.feast.online_config.get("type") == OWN_STORE
        self.feature_log = FeatureLog(settings, self.feast) if settings.log_features else None
        self.reach = Reach(database)
        self.answers: Answers | None = None
        self.trouble: Problem | None = None  # why the last reload failed
        self.invocations: dict[int, str | None] = {}  # known_at -> dbt invocation id
        self.newest: dict[str, int] = {}  # view -> as_of that is online, by the ledger
        self.marker: tuple[object, ...] = ()  # changes when the online tables do
        self.refreshed = 0.0
        self._reloading: asyncio.Task[None] | None = None
        self._ledger_read = 0.0

    async def start(self) -> None:
        """Connect, load the registry if there is one, and keep both so in the background."""
        settings = self.settings
        limits = (settings.connections, settings.waiting, settings.timeout)
        self.store: Store = (
            PostgresStore(self.database, self.reach, *limits)
            if self.own_store
            else FeastStore(self.feast, *limits)
        )
        self.link = Link(self.database, self.reach, 2.0, "registry")
        self.page_link = Link(self.database, self.reach, PAGE_TIMEOUT, "page")
        await self.store.start()
        if self.feature_log:
            await self.feature_log.start()
        with contextlib.suppress(Problem):
            await self.reload()
        self._refresher = asyncio.create_task(self._refresh())

    async def stop(self) -> None:
        """Close everything."""
        await end(task for task in (self._refresher, self._reloading) if task)
        if self.feature_log:
            await self.feature_log.stop()
        await self.store.stop()
        await self.link.close()
        await self.page_link.close()

    @property
    def catalogue(self) -> Catalogue | None:
        """The services of the newest registry seen."""
        return self.answers.catalogue if self.answers else None

    def loaded(self) -> Answers:
        """What makes answers. Raises a 503 problem before a registry was loaded: why it was not."""
        if self.answers is None:
            if self.damaged:
                raise Problem(503, "registry-damaged", self.damaged)
            raise self.trouble or no_registry()
        return self.answers

    async def ready(self) -> None:
        """Whether the default service can be served.

        Raises:
            Problem: 503, with a kind and detail that tell what is missing, or out of reach.
        """
        try:
            await self.read(lambda: self.service(None), nobody)
        except Problem as problem:
            if problem.kind == "unknown-service":
                raise Problem(503, problem.kind, problem.detail) from None
            if problem.kind == "store-unavailable" and self.own_store and not self.store.up:
                raise self.reach.problem() from None
            raise

    def service(self, name: str | None) -> tuple[Answers, Service]:
        """The feature service of that name, or the default one.

        Raises:
            Problem: 503 before a registry was loaded, 404 for a name it does not have.
        """
        answers = self.loaded()
        wanted = name or self.settings.service
        service = answers.catalogue.services.get(wanted)
        if service is None:
            reason = answers.catalogue.refused.get(wanted)
            detail = (
                f"The feature service {wanted} cannot be served: {reason}."
                if reason
                else f"There is no feature service {wanted}."
            )
            have = sorted(answers.catalogue.services)
            raise Problem(404, "unknown-service", detail, services=have)
        return answers, service

    async def read(
        self,
        choose: Callable[[], tuple[Answers, Service]],
        keys: Callable[[Service], KeyColumns],
    ) -> tuple[Answers, Service, list[Row]]:
        """The rows of `keys` in the service that `choose` gives, and what makes answers of them.

        When the store does not fit the registry in memory, the registry has probably changed:
        it is loaded again, and the read repeated once.

        Raises:
            Problem: 503 as long as it cannot be read, and what the two functions raise.
        """
        answers, service = choose()
        try:
            return answers, service, await self.store.read(service, keys(service))
        except MismatchError as mismatch:
            log.warning("registry and store differ: %s", mismatch)
        await self.reload()
        answers, service = choose()
        try:
            return answers, service, await self.store.read(service, keys(service))
        except MismatchError as mismatch:
            if isinstance(mismatch.error, psycopg.errors.InsufficientPrivilege):
                raise self._problem(mismatch.error) or mismatch from None
            raise Problem(
                503,
                "store-mismatch",
                f"The online tables do not have what service {service.name} needs. "
                "Make them with: feast apply, then feast materialize-incremental",
            ) from None

    async def reload(self) -> None:
        """Load what has changed: keys, registry, publications. Callers at once share one run.

        Raises:
            Problem: 503, the database cannot be read, or has no registry.
        """
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._reload())
        await asyncio.shield(self._reloading)

    async def _reload(self) -> None:
        try:
            self.keys = Keys(self.settings)
        except SettingsError as error:
            log.error("API keys kept as they were: %s", error)
        try:
            await self._load_registry()
            await self._load_ledger()
        except Exception as error:
            problem = error if isinstance(error, Problem) else self._problem(error)
            if problem is None:
                raise
            # What cannot be reached is said by `reach`, and a state that lasts is said once.
            told = self.trouble is not None and self.trouble.detail == problem.detail
            if not told and self.reach.why is None:
                log.warning("registry or ledger not read: %s", problem.log or problem.detail)
            self.trouble = problem
            raise problem from None
        if self.trouble is not None:
            log.info("registry and ledger are read again")
        self.trouble = None
        self.refreshed = time.time()

    def _problem(self, error: Exception) -> Problem | None:
        """What a failed query says about the database; None: a defect of ours."""
        said = str(error).partition("\n")[0]
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            detail = "The API's role may not read what is served. Give it the right with: make up"
            return Problem(503, "not-permitted", detail, log=said)
        if isinstance(error, psycopg.OperationalError):
            return self.reach.problem()
        if isinstance(error, psycopg.Error):
            detail = "The database is not set up as this version needs it. Do it with: make up"
            return Problem(503, "not-set-up", detail, log=said)
        return None

    async def _load_registry(self) -> None:
        try:
            rows = await self.link.fetch(
                "select version, md5(blob), case when (version, md5(blob))"
                " is distinct from (%s, %s) then blob end from online.registry where name = %s",
                [*(self._registry_seen or (-1, "")), self.registry_name],
            )
        except psycopg.errors.UndefinedTable:
            [(schema,)] = await self.link.fetch("select to_regnamespace('online')::text")
            if schema is None:
                detail = "The database is not set up. Do it with: make up, then feast apply"
                raise Problem(503, "not-set-up", detail) from None
            raise no_registry() from None
        if not rows:
            raise no_registry()
        version, digest, blob = rows[0]
        if blob is None:
            return
        try:
            parse(blob, version)
        except RegistryDamagedError as error:
            self._registry_seen = (version, digest)
            self.damaged = "The feature registry is damaged. Make it anew with: feast apply"
            log.error("registry version %s is damaged (%s); kept what was loaded", version, error)
            return
        self.damaged = ""
        catalogue = read_catalogue(blob, self.feast.project, version)
        self.answers = Answers(catalogue, self.invocations)
        self._registry_seen = (version, digest)
        log.info(
            "registry version %s: services %s, refused %s",
            version,
            sorted(catalogue.services),
            catalogue.refused,
        )

    async def _load_ledger(self) -> None:
        """Publications always; the state of the online tables only if one was written to."""
        self._ledger_read = time.monotonic()
        known: Sequence[tuple[datetime, str]] = await self.link.fetch(
            "select known_at, invocation_id from ledger.publications"
        )
        self.invocations.update({micros(known_at): text for known_at, text in known})
        [(newest,)] = await self.link.fetch(
            "select max(materialization_id) from ledger.materializations"
        )
        marker = (self.catalogue.version if self.catalogue else None, newest)
        if marker == self.marker or not self.own_store or not self.catalogue:
            return
        # Asking the tables themselves takes as long as they are large.
        rows = await self.link.fetch(
            "select distinct on (view_name) view_name, as_of from ledger.materializations "
            "where store = 'postgres' order by view_name, materialization_id desc"
        )
        views = {v.name for s in self.catalogue.services.values() for v in s.views}
        self.newest = {view: micros(as_of) for view, as_of in rows if as_of and view in views}
        self.marker = marker

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(self.settings.refresh)
            try:
                await self.reload()
            except Problem:
                pass  # said when it began
            except Exception:  # a defect here must not end the refreshing
                log.exception("refresh failed")

    async def know(self, answers: Answers) -> None:
        """Look up publications that answers met before the ledger was last read."""
        if time.monotonic() - self._ledger_read > 1:
            with contextlib.suppress(psycopg.Error):
                await self._load_ledger()
        # Rows written past the pipeline (a push) have no publication; don't look again and again.
        for known_at in answers.forget():
            self.invocations.setdefault(known_at, None)


def nobody(service: Service) -> KeyColumns:
    """Keys that no entity has, as good as any other to see whether a service can be read."""
    return [[NOBODY[kind]] for kind in service.keys.values()]


def no_registry() -> Problem:
    """The answer before the first `feast apply`."""
    detail = "No feature registry was found yet. Make it with: feast apply"
    return Problem(503, "no-registry", detail)
