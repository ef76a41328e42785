"""The two routes that serve features, without FastAPI's work per request.

FastAPI documents them (their signatures are the OpenAPI) and routes to them; parsing, checking
and answering is done here. Measured: see docs/decisions/0041-lean-routes.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qsl, unquote_to_bytes

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from data.contract import MAX_CHARACTERS, USER, is_user_id
from serving import metrics, schemas
from serving.answers import Answers, Origin, user
from serving.catalogue import Row, Service
from serving.gate import answer
from serving.problems import Headers, Problem, documented
from serving.routes.keys import request_of
from serving.schemas import USER_ID_PATTERN, Batch
from serving.state import State

Answer = tuple[int, Headers, bytes]
Part = tuple[bytes, Row, Mapping[str, Any]]
Made = tuple[bytes, Origin]
Asked = TypeVar("Asked")

PARAMETERS = {"service", "on_missing"}
JSON: Headers = [(b"content-type", b"application/json")]
# An answer belongs to the caller, and may be used again once the API has said it is current.
CACHING: Headers = [*JSON, (b"cache-control", b"private, no-cache")]
UNKEPT: Headers = [*JSON, (b"cache-control", b"no-store")]

ServiceName = Annotated[
    str | None,
    Query(
        description="Feature service; without it, the default one (see GET /catalogue).",
        examples=["churn_v1"],
    ),
]


class LeanRoute(APIRoute):
    """A route whose endpoint gets its parameters unparsed by FastAPI and returns bytes."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)  # raises 405
            return
        arguments = dict(scope["path_params"])
        if scope["query_string"]:
            arguments |= _parameters(scope["query_string"], self.query_parameters)
            scope["streamflow_given"] = arguments.pop("given", None)
        if self.body_field is not None:
            arguments["batch"] = await _batch(scope, receive)
        await answer(send, *await self.endpoint(Request(scope), **arguments))

    @cached_property
    def query_parameters(self) -> set[str]:
        """Names of the query parameters that the endpoint takes."""
        return {parameter.name for parameter in self.dependant.query_params}


def _parameters(query: bytes, known: set[str]) -> dict[str, Any]:
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=20
        )
    except ValueError:  # not ASCII, not UTF-8, too many
        raise Problem(422, "bad-parameter", "The query string is malformed.") from None
    found = dict(pairs)
    if "as_of" in found:
        raise Problem(
            400,
            "past-vector",
            "The API serves the newest published values only. For values as of another time, "
            "build a training set: make training-set AS_OF=<date>",
        )
    if len(found) < len(pairs):
        raise Problem(422, "bad-parameter", "A query parameter is given twice.")
    given = {name: found.pop(name) for name in found.keys() - known}
    if given and not known:
        raise _unknown_parameter(given, known)
    if found.get("on_missing", "null") not in ("null", "error"):
        raise Problem(422, "bad-parameter", "on_missing is null or error.")
    return {**found, "given": given} if given else found


def _unknown_parameter(unknown: Iterable[str], known: Iterable[str]) -> Problem:
    wanted = " and ".join(sorted(known)) or "none"
    shown = ", ".join(sorted(unknown))[:100]
    detail = f"Unknown query parameter: {shown}. There is: {wanted}."
    return Problem(422, "bad-parameter", detail)


async def _batch(scope: Scope, receive: Receive) -> Batch:
    kinds = [v for k, v in scope["headers"] if k == b"content-type"]
    if not kinds or kinds[0].split(b";")[0].strip().lower() != b"application/json":
        raise Problem(415, "bad-body", "Send JSON, with Content-Type: application/json.")
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    try:
        return Batch.model_validate_json(body, strict=True)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        where = [{"at": ".".join(map(str, e["loc"])), "message": e["msg"]} for e in errors[:10]]
        if any(e["type"] == "too_long" for e in errors):
            raise Problem(422, "too-many-ids", "Too many user ids.", errors=where) from None
        if any(e["type"] == "json_invalid" for e in errors):
            raise Problem(400, "bad-body", "The body is not JSON.", errors=where) from None
        detail = "The body is not what the API takes; see errors."
        raise Problem(422, "bad-body", detail, errors=where) from None


class Features:
    """The endpoints, bound to the state of the process."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def one(
        self,
        request: Request,
        user_id: Annotated[
            str,
            Path(
                description="Percent-encoded, so that an id may hold a slash.",
                pattern=USER_ID_PATTERN,
                max_length=MAX_CHARACTERS,
                examples=["7590-VHVEG"],
            ),
        ],
        service: ServiceName = None,
        on_missing: Annotated[
            Literal["null", "error"],
            Query(description="`error`: answer 404 if nothing is known about the user."),
        ] = "null",
    ) -> Any:
        """The newest published features of one user, and where they come from.

        A user nobody knows gets nulls and `"found": false`, as Feast itself answers. Values of
        the past (`?as_of=`) are refused: they come from training sets. Answers carry an ETag and
        Last-Modified; ask again with If-None-Match or If-Modified-Since to get a short 304 while
        nothing was published (a 304 does not renew `age_seconds`).
        """
        user_id = decoded(user_id)
        state = self._state
        started = time.perf_counter()
        answers, plan, rows = await state.read(
            lambda: state.service(service), lambda plan: [of_users(plan, (user_id,))]
        )
        metrics.STORE_SECONDS.observe(time.perf_counter() - started)
        who, given = user(user_id), request.scope.get("streamflow_given") or {}
        if unknown := given.keys() - plan.request.keys():
            raise _unknown_parameter(unknown, {*PARAMETERS, *plan.request})
        brought = request_of(plan, given, texts=True)
        [(body, origin)] = made = await make(state, answers, plan, [(who, rows[0], brought)])
        unknown = count(request, plan, [user_id], made)
        if unknown and on_missing == "error":
            raise _unknown(unknown)
        headers = CACHING
        if origin.etag:
            headers = [*headers, (b"etag", origin.etag)]
            if origin.last_modified:
                headers.append((b"last-modified", origin.last_modified))
            if _is_current(request.scope, origin):
                return 304, headers[1:], b""
        return 200, headers, body

    async def many(self, request: Request, batch: Batch) -> Any:
        """The same for up to 1,000 users, in the order asked, unknown ones in place."""
        if len(batch.user_ids) > self._state.settings.max_ids:
            raise Problem(
                422, "too-many-ids", f"Ask for {self._state.settings.max_ids} users at most."
            )
        state = self._state
        started = time.perf_counter()
        answers, plan, rows = await state.read(
            lambda: state.service(batch.service), lambda plan: [of_users(plan, batch.user_ids)]
        )
        metrics.STORE_SECONDS.observe(time.perf_counter() - started)
        if plan.request:
            detail = f"{plan.name} needs {', '.join(plan.request)}: POST /entities/features"
            raise Problem(422, "bad-request-data", detail)
        parts: list[Part] = [
            (user(u), row, {}) for u, row in zip(batch.user_ids, rows, strict=True)
        ]
        made = await make(state, answers, plan, parts)
        unknown = count(request, plan, batch.user_ids, made)
        if unknown and batch.on_missing == "error":
            raise _unknown(unknown)
        return 200, UNKEPT, results(made)


async def make(
    state: State, answers: Answers, service: Service, parts: Sequence[Part]
) -> list[Made]:
    """The answer about each entity: who it is, its row, what the request brings."""
    made = [answers.one(service, *part) for part in parts]
    if answers.missing:
        await state.know(answers)
        made = [answers.one(service, *part) for part in parts]
    if (log := state.feature_log) is not None:
        for (_, row, given), (body, _) in zip(parts, made, strict=True):
            if log.chosen():
                log.take(service, body, row, given)
    return made


def count(
    request: Request, service: Service, asked: Sequence[Asked], made: Sequence[Made]
) -> list[Asked]:
    """Note how many entities were answered about; those of whom nothing is known."""
    unknown = [who for who, (_, origin) in zip(asked, made, strict=True) if not origin.found]
    metrics.count_users(service.name, len(made), len(unknown))
    request.scope["streamflow_users"] = (len(made), len(unknown))
    return unknown


def results(made: Sequence[Made]) -> bytes:
    """The body of an answer about several."""
    return b'{"results":[%b]}' % b",".join([body for body, _ in made])


def response(body: bytes | str, headers: Headers) -> Response:
    """For the routes that FastAPI itself handles."""
    return Response(body, headers={name.decode(): value.decode() for name, value in headers})


def of_users(service: Service, user_ids: Sequence[str]) -> Sequence[str]:
    """The ids, for a service that is keyed by them.

    Raises:
        Problem: 422, it is not.
    """
    if service.of_users:
        return user_ids
    detail = (
        f"The feature service {service.name} is keyed by {' and '.join(service.keys)}. "
        "Ask for it at /entities/{entity}/features."
    )
    raise Problem(422, "other-entity", detail)


def decoded(segment: str) -> str:
    """The user id that a part of a path stands for.

    The gate hands paths below /features on as they were sent: decoded, an id with a slash would
    be a path of two parts.

    Raises:
        Problem: 422, this cannot be a user id.
    """
    try:
        user_id = unquote_to_bytes(segment).decode() if "%" in segment else segment
        if is_user_id(user_id):
            return user_id
    except UnicodeError:
        pass
    detail = f"Expected {USER.expected}; in a path percent-encoded, as UTF-8."
    raise Problem(422, "bad-parameter", detail)


def _unknown(user_ids: list[str]) -> Problem:
    few = ", ".join(user_ids[:3]) + (f" and {len(user_ids) - 3} more" if user_ids[3:] else "")
    return Problem(404, "unknown-user", f"Nothing is known about {few}.", user_ids=user_ids)


def _is_current(scope: Scope, origin: Origin) -> bool:
    """Whether the client has this answer already (RFC 9110: If-None-Match goes first)."""
    since = b""
    for name, value in scope["headers"]:
        if name == b"if-none-match":
            tags = [tag.strip().removeprefix(b"W/") for tag in value.split(b",")]
            return value.strip() == b"*" or origin.etag.removeprefix(b"W/") in tags
        if name == b"if-modified-since":
            since = value
    if since == origin.last_modified or not (since and origin.last_modified):
        return bool(since)
    try:
        theirs, ours = (
            parsedate_to_datetime(date.decode("latin-1")) for date in (since, origin.last_modified)
        )
        return theirs >= ours
    except (TypeError, ValueError):
        return False  # no date: the condition is to be ignored


def add(app: FastAPI, state: State) -> BaseRoute:
    """The routes of one user and of many; that of one, for the gate."""
    features = Features(state)
    app.router.add_api_route(
        "/features/{user_id}",
        features.one,
        methods=["GET"],
        tags=["features"],
        response_model=schemas.UserFeatures,
        responses=documented(400, 404, 422, 503)
        | {304: {"description": "What the client has is current."}},
        route_class_override=LeanRoute,
    )
    one = app.router.routes[-1]
    app.router.add_api_route(
        "/features",
        features.many,
        methods=["POST"],
        tags=["features"],
        response_model=schemas.Results,
        responses=documented(400, 404, 408, 413, 415, 422, 503),
        route_class_override=LeanRoute,
    )
    return one
