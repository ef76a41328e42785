"""What every request passes: request id, who may ask, size limits, one log line, metrics."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import sys
import time
from collections.abc import Callable, MutableMapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data.database import is_loopback
from serving import metrics
from serving.problems import Problem
from serving.settings import Settings
from serving.state import State

log = logging.getLogger("serving.gate")

# They hold no data.
OPEN_PATHS = {"/", "/browse", "/docs", "/openapi.json", "/health", "/ready", "/favicon.ico"}
FEATURES = "/features/"
OPEN_FOLDER = "/static/"
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
PAGES = ("/", "/browse", "/docs")
NOSNIFF = (b"x-content-type-options", b"nosniff")
PAGE_HEADERS = [
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    ),
]


class WrongKeys:
    """Counts requests with a key that is none; says so in the log, once a minute at most. Of the
    key nothing is kept: it may be a right one with a typing error."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._silent_until, self._untold = clock, float("-inf"), 0

    def count(self) -> None:
        metrics.WRONG_KEYS.inc()
        self._untold += 1
        now = self._clock()
        if now >= self._silent_until:
            log.warning("%d requests with a wrong API key since this was last said", self._untold)
            self._silent_until, self._untold = now + 60, 0


class Gate:
    """ASGI middleware. Raised problems, and defects, become problem-details answers here."""

    def __init__(self, app: ASGIApp, state: State, settings: Settings, features: BaseRoute) -> None:
        self._app, self._state, self._settings, self._features = app, state, settings, features
        self._children: dict[tuple[str, str, int], tuple] = {}
        self._wrong_keys = WrongKeys()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        method = scope["method"]
        # A copy: the server's own scope has to keep what it received.
        scope = {**scope, "method": "GET" if method == "HEAD" else method}
        path = _below_root(scope)
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        status = 0
        key: str | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                sent = message["headers"] = list(message.get("headers", ()))
                sent += ((b"x-request-id", request_id.encode()), NOSNIFF)
                if path in PAGES:
                    sent += PAGE_HEADERS
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            try:
                key = self._authorise(scope, path, headers)
                if scope["method"] != "GET":
                    receive = self._limited(headers, receive)
                await self._pass(scope, path, receive, send_with_id)
            except Problem as problem:
                if status:
                    raise
                await answer(send_with_id, *problem.answer(request_id))
        except Exception:
            log.exception("defect", extra={"request_id": request_id})
            if not status:
                detail = "A defect; the log has it under this request id."
                await answer(send_with_id, *Problem(500, "internal", detail).answer(request_id))
        finally:
            self._note(scope, method, request_id, status, key, time.perf_counter() - started)

    async def _pass(self, scope: Scope, path: str, receive: Receive, send: Send) -> None:
        """To the app, or for one user's features straight to their route.

        The way through FastAPI's middleware and router costs as much as answering.
        """
        if scope["method"] == "GET" and path.startswith(FEATURES):
            user_id = path[len(FEATURES) :]
            if user_id and "/" not in user_id:
                scope["route"], scope["path_params"] = self._features, {"user_id": user_id}
                await self._features.handle(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _authorise(self, scope: Scope, path: str, headers: dict[bytes, bytes]) -> str | None:
        """The name of the caller's key; None where none is needed.

        Without a configured key, only this machine is served: the address the request came in on
        must be loopback (however the process was started), and so must the Host header be, so
        that a web page whose name resolves to 127.0.0.1 cannot read features in a browser.
        """
        keys = self._state.keys
        if keys:
            if path in OPEN_PATHS or path.startswith(OPEN_FOLDER):
                return None
            presented = headers.get(b"x-api-key", b"")
            if not presented:
                scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
                presented = credentials.strip() if scheme.lower() == b"bearer" else b""
            name = keys.name_of(presented) if presented else None
            if name is None:
                if presented:
                    self._wrong_keys.count()
                raise Problem(
                    401,
                    "key-required",
                    "Send an API key: Authorization: Bearer <key>, or X-API-Key: <key>.",
                    [(b"www-authenticate", b"Bearer")],
                )
            return name
        server = scope.get("server")
        host = headers.get(b"host", b"").decode("latin-1")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        # Who may reach a Unix socket is up to the file system.
        a_file = server is not None and server[1] is None and server[0].startswith("/")
        if server and not a_file and not (is_loopback(server[0]) and is_loopback(name)):
            raise Problem(
                403,
                "not-loopback",
                "No API key is configured, so only http://127.0.0.1 and http://localhost are "
                "served. Set STREAMFLOW_API_KEYS to serve others.",
            )
        return None

    def _limited(self, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        """`receive`, which raises a problem for a body too large or too slow."""
        most = self._settings.max_body
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > most:
            raise self._too_large()
        seen = 0
        deadline = time.monotonic() + self._settings.timeout

        async def limited() -> Message:
            nonlocal seen
            try:
                message = await asyncio.wait_for(receive(), max(deadline - time.monotonic(), 0.001))
            except asyncio.TimeoutError:
                raise Problem(
                    408,
                    "body-too-slow",
                    "The body did not arrive in time.",
                    [(b"connection", b"close")],
                ) from None
            seen += len(message.get("body", b""))
            if seen > most:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> Problem:
        return Problem(
            413,
            "body-too-large",
            f"A body may have {self._settings.max_body} bytes.",
            [(b"connection", b"close")],
        )

    def _note(
        self,
        scope: Scope,
        asked: str,
        request_id: str,
        status: int,
        key: str | None,
        seconds: float,
    ) -> None:
        route = getattr(scope.get("route"), "path", "none")
        method = asked if status != 405 and route != "none" else "other"
        series = self._children.get((route, method, status))
        if series is None:
            series = self._children[route, method, status] = (
                metrics.REQUESTS.labels(route, method, str(status)),
                metrics.REQUEST_SECONDS.labels(route),
            )
        series[0].inc()
        series[1].observe(seconds)
        if self._settings.access_log:
            # No user id: the route's template says what was asked, the request id finds the rest.
            # By hand, as every part is known to need no escape; json.dumps takes thrice as long.
            users = scope.get("streamflow_users")
            sys.stdout.write(
                f'{{"time":"{datetime.now(timezone.utc).isoformat(timespec="milliseconds")}",'
                f'"level":"info","logger":"serving.access","request_id":"{request_id}",'
                f'"method":"{method}","route":"{route}","status":{status},'
                f'"ms":{seconds * 1000:.2f}'
                + (f',"key":"{key}"' if key else "")
                + (f',"users":{users[0]},"unknown":{users[1]}' if users else "")
                + "}\n"
            )


def _below_root(scope: MutableMapping[str, Any]) -> str:
    """The path as our routes know it: without the prefix that a proxy or `--root-path` adds.

    Below /features it stays as it was sent, percent-encoded, here and in `scope`: an id may hold a
    slash, and decoded nothing would tell it from the one that separates the parts of a path.
    """
    root: str = scope.get("root_path", "").rstrip("/")
    path: str = scope["path"]
    if root and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :] or "/"
    if path.startswith(FEATURES) and path != FEATURES:
        sent: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
        raw = sent.partition(b"?")[0].decode("utf-8", "surrogateescape")
        encoded_root = quote(root)
        if root and raw.startswith(f"{encoded_root}/"):
            raw = raw[len(encoded_root) :]
        if raw.startswith(FEATURES):
            path = raw
    scope["path"] = root + path
    return path


async def answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Send a whole answer."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
