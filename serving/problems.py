"""The one shape of an error: problem details, RFC 9457. Never the text of an exception."""

from __future__ import annotations

import json
from typing import Any

Headers = list[tuple[bytes, bytes]]

TITLES = {
    400: "Bad request",
    401: "API key required",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    413: "Request too large",
    415: "Unsupported media type",
    422: "Request does not fit the API",
    500: "Internal error",
    501: "Not available here",
    503: "Service unavailable",
}


class Problem(Exception):  # noqa: N818 (the RFC's word)
    """An answer other than success.

    `kind` is stable and machine-readable (the last part of the type URI); `detail` is for people
    and names the cause and, where there is one, the remedy. `log` is what only the log may say.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        headers: Headers | None = None,
        *,
        log: str = "",
        **more: object,
    ) -> None:
        super().__init__(detail)
        self.log = log
        self.status, self.kind, self.detail, self.more = status, kind, detail, more
        self.headers = headers or []
        if status == 503:
            self.headers = [*self.headers, (b"retry-after", b"1")]

    def answer(self, request_id: str = "") -> tuple[int, Headers, bytes]:
        """Status, headers and body of the answer."""
        body = {
            "type": f"/docs#problem-{self.kind}",
            "title": TITLES[self.status],
            "status": self.status,
            "detail": self.detail,
            **self.more,
        }
        if request_id:
            body["request_id"] = request_id
        headers = [(b"content-type", b"application/problem+json"), (b"cache-control", b"no-store")]
        return self.status, headers + self.headers, json.dumps(body).encode()


# Every kind there is, for the documentation; a test holds the code to this list.
KINDS = {
    "past-vector": "`as_of` was given: the API serves the present only",
    "bad-parameter": "a query parameter or user id is not what the API takes",
    "bad-keys": "a join key is missing, unknown, or no value of its type",
    "bad-request-data": "what an on-demand feature is computed from is missing, or of another type",
    "not-computed": "the function of an on-demand feature failed",
    "bad-body": "the body is no JSON, or not the object that the API takes",
    "too-many-ids": "more user ids than one request may ask for",
    "key-required": "an API key is missing or not valid",
    "not-loopback": "no API key is configured, so only this machine is served",
    "other-entity": "the feature service is about other entities than the route",
    "unknown-entity": "there is no entity of that name, or nothing is known about one asked for",
    "unknown-feature": "there is no feature of that name",
    "unknown-user": "nothing is known about a user, and `on_missing=error` was asked for",
    "unknown-service": "there is no feature service of that name",
    "unknown-path": "there is nothing at this path",
    "wrong-method": "the path exists, but not for this method",
    "body-too-large": "the body is larger than one request may be",
    "body-too-slow": "the body did not arrive in time",
    "no-registry": "no feature registry was loaded yet",
    "not-set-up": "the database has none of the project's schemas, or older ones",
    "no-database": "the database server has no database of the configured name",
    "login-refused": "the database does not let the API's role in",
    "not-permitted": "the API's role may not read what it should serve",
    "registry-damaged": "the stored feature registry cannot be read",
    "store-unavailable": "the online store cannot be read at the moment",
    "store-mismatch": "the registry names a table or column that the online store lacks",
    "overloaded": "more reads are waiting than this process can answer in time",
    "not-with-this-store": "only the project's own online store in Postgres offers this",
    "internal": "a defect; the log has it under this request id",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers with problem details that a route documents in the OpenAPI."""
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {
        status: {
            "description": TITLES[status],
            "content": {"application/problem+json": {"schema": schema}},
        }
        for status in (401, 403, *statuses)
    }
