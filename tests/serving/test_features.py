"""What the API answers about users: values, statuses, where they come from, and how it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from feast import FeatureService

from data.database import Database
from serving.problems import KINDS
from tests.serving.hand_made import (
    INVOCATION,
    feature_views,
    registry,
    store_registry,
)

Ask = Callable[..., list[httpx.Response]]


def test_an_answer_has_the_values_and_where_they_come_from(ask: Ask) -> None:
    [answer] = ask(("GET", "/features/7590-VHVEG?service=churn_v1"))
    body = answer.json()
    for view in body["views"].values():
        assert view.pop("age_seconds") > 60 * 60 * 24 * 365
    origin = {
        "status": "found",
        "as_of": "2024-02-29T00:00:00Z",
        "known_at": "2024-03-01T01:12:03.456789Z",
        "invocation_id": INVOCATION,
    }
    assert body == {
        "user_id": "7590-VHVEG",
        "found": True,
        "service": "churn_v1",
        "as_of": "2024-02-29T00:00:00Z",
        "features": {"monthly_fee": 29.85, "skips_7d": 0},
        "views": {"plan_features": origin, "watch_features": origin},
    }


def test_values_arrive_as_they_are_stored(ask: Ask) -> None:
    strange, pushed = ask(("GET", "/features/quotes"), ("GET", "/features/pushed"))
    features = strange.json()["features"]
    assert features["contract_type"] == 'a "quoted" \\ \n \u2028 名'
    assert features["monthly_fee"] == 1e300
    assert features["plan_features__score"] == 2**62
    assert features["paperless_billing"] is False
    assert pushed.json()["features"]["monthly_fee"] == 0.1 + 0.2
    assert pushed.json()["views"]["plan_features"]["known_at"] is None


def test_a_number_json_cannot_say_is_null(ask: Ask) -> None:
    [answer] = ask(("GET", "/features/not-finite"))
    assert answer.json()["features"]["monthly_fee"] is None
    assert answer.json()["features"]["contract_type"] == "x"


def test_names_that_two_views_share_get_the_view_in_front(ask: Ask) -> None:
    [answer] = ask(("GET", "/features/7590-VHVEG"))
    features = answer.json()["features"]
    assert (features["plan_features__score"], features["watch_features__score"]) == (1, 7)
    assert "score" not in features


def test_a_status_says_what_a_null_means(ask: Ask) -> None:
    answers = ask(*(("GET", f"/features/{u}") for u in ("empty", "expired", "nobody", "u00001")))
    statuses = [[v["status"] for v in a.json()["views"].values()] for a in answers]
    assert statuses == [
        ["null", "unknown", "unknown"],
        ["found", "unknown", "older_than_ttl"],
        ["unknown", "unknown", "unknown"],
        ["found", "found", "unknown"],
    ]
    assert answers[1].json()["features"]["trend"] is None  # withheld, as Feast does
    assert [a.json()["found"] for a in answers] == [True, True, False, True]


def test_an_unknown_user_is_404_only_on_request(ask: Ask) -> None:
    quiet, strict, known = ask(
        ("GET", "/features/nobody"),
        ("GET", "/features/nobody?on_missing=error"),
        ("GET", "/features/u00001?on_missing=error"),
    )
    assert (quiet.status_code, quiet.json()["found"], quiet.json()["as_of"]) == (200, False, None)
    assert set(quiet.json()["features"].values()) == {None}
    assert (strict.status_code, strict.json()["user_ids"]) == (404, ["nobody"])
    assert known.status_code == 200


def test_a_batch_keeps_the_order_and_equals_single_requests(ask: Ask) -> None:
    ids = ["u00007", "nobody", "u00003", "u00007", "expired"]
    batch, *singles = ask(
        ("POST", "/features", {"json": {"user_ids": ids}}),
        *(("GET", f"/features/{user_id}") for user_id in ids),
    )

    def timeless(answer: dict[str, Any]) -> dict[str, Any]:
        for view in answer["views"].values():
            del view["age_seconds"]
        return answer

    assert [timeless(a) for a in batch.json()["results"]] == [timeless(a.json()) for a in singles]
    [missing] = ask(("POST", "/features", {"json": {"user_ids": ids, "on_missing": "error"}}))
    assert (missing.status_code, missing.json()["user_ids"]) == (404, ["nobody"])


def test_a_thousand_users_are_answered_and_more_are_refused(ask: Ask) -> None:
    ids = [f"u{i:05}" for i in range(1001)]
    most, more = (("POST", "/features", {"json": {"user_ids": ids[:n]}}) for n in (1000, 1001))
    allowed, refused = ask(most, more)
    found = [a["found"] for a in allowed.json()["results"]]
    assert found == [True] * 200 + [False] * 800
    assert (refused.status_code, refused.json()["type"]) == (422, "/docs#problem-too-many-ids")


@pytest.mark.parametrize(
    ("method", "url", "options", "status", "kind"),
    [
        ("GET", "/features/x?as_of=2024-01-31", {}, 400, "past-vector"),
        ("GET", "/features/x?service=nope", {}, 404, "unknown-service"),
        ("GET", "/features/x?servce=churn_v1", {}, 422, "bad-parameter"),
        ("GET", "/features/x?service=a&service=b", {}, 422, "bad-parameter"),
        ("GET", "/features/x?on_missing=maybe", {}, 422, "bad-parameter"),
        ("GET", "/features/x?service=%ff", {}, 422, "bad-parameter"),
        ("GET", "/features/" + "x" * 201, {}, 422, "bad-parameter"),
        ("GET", "/features/%FF", {}, 422, "bad-parameter"),
        ("GET", "/features/%2E%2e", {}, 422, "bad-parameter"),
        ("GET", "/features/%20a", {}, 422, "bad-parameter"),
        ("GET", "/features/a%E2%80%83", {}, 422, "bad-parameter"),
        ("GET", "/features/%ED%A0%80", {}, 422, "bad-parameter"),
        ("GET", "/features/a%00b", {}, 422, "bad-parameter"),
        ("GET", "/features/a%0a", {}, 422, "bad-parameter"),
        ("GET", "/features/a/b", {}, 404, "unknown-path"),
        ("GET", "/features/", {}, 404, "unknown-path"),
        ("DELETE", "/features/x", {}, 405, "wrong-method"),
        ("GET", "/features", {}, 405, "wrong-method"),
        ("GET", "/nothing", {}, 404, "unknown-path"),
        ("GET", "/static/../main.py", {}, 404, "unknown-path"),
        ("POST", "/features", {"json": {"user_ids": []}}, 422, "bad-body"),
        ("POST", "/features", {"json": {"user_ids": [1]}}, 422, "bad-body"),
        ("POST", "/features", {"json": {"user_ids": ["a "]}}, 422, "bad-body"),
        ("POST", "/features", {"json": {"user_ids": ["a"], "as_of": "x"}}, 422, "bad-body"),
        ("POST", "/features", {"json": ["a"]}, 422, "bad-body"),
        (
            "POST",
            "/features",
            {"json": {"user_ids": ["a"], "service": "no"}},
            404,
            "unknown-service",
        ),
        ("POST", "/features", {"content": b"{"}, 415, "bad-body"),
        (
            "POST",
            "/features",
            {"content": b"{", "headers": {"content-type": "application/json"}},
            400,
            "bad-body",
        ),
        ("POST", "/features?service=x", {"json": {"user_ids": ["a"]}}, 422, "bad-parameter"),
        ("POST", "/features", {"content": b" " * 300_000}, 413, "body-too-large"),
        ("GET", "/features/a%20/history", {}, 422, "bad-parameter"),
    ],
)
def test_what_is_refused_says_why(
    ask: Ask, method: str, url: str, options: dict[str, Any], status: int, kind: str
) -> None:
    [answer] = ask((method, url, options))
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (answer.status_code, body["type"]) == (status, f"/docs#problem-{kind}")
    assert body["status"] == status
    assert body["request_id"] == answer.headers["x-request-id"]
    assert kind in KINDS


def test_the_validators_come_from_the_publication(ask: Ask) -> None:
    [first] = ask(("GET", "/features/7590-VHVEG?service=churn_v1"))
    etag, modified = first.headers["etag"], first.headers["last-modified"]
    assert modified == "Fri, 01 Mar 2024 01:20:00 GMT"
    url = "/features/7590-VHVEG?service=churn_v1"
    conditions = [
        ({"if-none-match": etag}, 304),
        ({"if-none-match": f'"other", {etag}'}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-none-match": '"other"'}, 200),
        ({"if-modified-since": modified}, 304),
        ({"if-modified-since": "Fri, 01 Mar 2030 00:00:00 GMT"}, 304),
        ({"if-modified-since": "Fri, 01 Mar 2024 01:19:59 GMT"}, 200),
        ({"if-modified-since": "yesterday"}, 200),
        ({"if-none-match": '"other"', "if-modified-since": modified}, 200),
    ]
    answers = ask(*(("GET", url, {"headers": headers}) for headers, _ in conditions))
    assert [a.status_code for a in answers] == [status for _, status in conditions]
    assert answers[0].content == b""
    assert answers[0].headers["etag"] == etag


def test_another_publication_changes_the_etag(ask: Ask, own_online: Database) -> None:
    def etag() -> str:
        [answer] = ask(("GET", "/features/u00001"), database=own_online)
        return str(answer.headers["etag"])

    before = etag()
    assert etag() == before  # another process says the same
    with own_online.connect() as connection:
        connection.execute(
            "update online.plan_features set monthly_fee = 1, published_at = now() "
            "where user_id = 'u00001'"
        )
    assert etag() != before


def test_an_answer_that_time_alone_changes_has_no_last_modified(ask: Ask) -> None:
    unknown, expired = ask(("GET", "/features/nobody"), ("GET", "/features/expired"))
    assert "last-modified" not in unknown.headers
    assert "last-modified" not in expired.headers


def test_every_service_is_described(ask: Ask) -> None:
    [answer] = ask(("GET", "/catalogue"))
    services = {service["name"]: service for service in answer.json()["services"]}
    assert set(services) == {"all_features", "churn_v1", "one_feature"}
    [view] = services["one_feature"]["views"]
    assert view["ttl_seconds"] == 86400
    assert view["features"] == [
        {
            "name": "trend",
            "column": "trend",
            "type": "double",
            "unit": "hours",
            "description": "About trend.",
            "lineage": "http://127.0.0.1:8080/#!/model/model.streamflow.fresh_features?g_v=1",
        }
    ]


def test_what_cannot_be_served_is_named(ask: Ask, own_online: Database) -> None:
    views = feature_views()
    twice = FeatureService(
        name="twice", features=[views["fresh_features"], views["fresh_features"].with_name("again")]
    )
    store_registry(own_online, registry(twice))
    [listed, asked] = ask(
        ("GET", "/catalogue"), ("GET", "/features/x?service=twice"), database=own_online
    )
    assert listed.json()["refused"] == {"twice": "it takes a feature view twice"}
    assert asked.status_code == 404
    assert "takes a feature view twice" in asked.json()["detail"]
