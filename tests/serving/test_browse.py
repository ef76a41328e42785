"""The catalogue of features: what it says, against what the database holds; and its page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest

from data.database import Database
from orchestration import steps
from orchestration.catalogue import command
from serving.main import create_app
from serving.settings import Settings
from tests.serving.browser import browser, chromium
from tests.serving.hand_made import running
from tests.serving.processes import api
from tests.serving.test_page import CONTRAST, FOCUSED, OVERFLOW

KEY = "browse-key-0123456789"
Kept: dict[str, list[tuple[Any, ...]]] = {}  # documents, by the first test that asks


@pytest.fixture
def described(sample: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """The sample, with its catalogue made and one training set."""
    columns = "view_name, feature, publication, document"
    if "rows" not in Kept:
        monkeypatch.setattr(command, "PROCESSED", tmp_path)
        steps.training_set(["2024-02-29"], service="churn_v1", out=tmp_path, name="february")
        assert command.main([]) == 0
        with sample.connect() as connection:
            found = connection.execute(f"select {columns}::text from ledger.catalogue")  # type: ignore[arg-type]
            Kept["rows"] = found.fetchall()
    else:
        with sample.connect() as connection, connection.cursor() as cursor:
            cursor.executemany(
                f"insert into ledger.catalogue ({columns}) values (%s, %s, %s, %s)",  # type: ignore[arg-type]
                Kept["rows"],
            )
    return sample


def ask(database: Database, *paths: str, **settings: Any) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        async with running(create_app(Settings(**settings), database)) as client:
            return [await client.get(path) for path in paths]

    return asyncio.run(run())


def test_a_feature_is_told_with_all_that_is_known_of_it(described: Database) -> None:
    [answer] = ask(described, "/catalogue/watch_hours_30d")
    told = answer.json()
    assert told["view"] == "usage_features"
    assert told["unit"] == "hours"
    assert told["owner"] == "feature-platform"
    kinds = {f"{use['table']}.{use['column']}": use["kinds"] for use in told["raw"]}
    assert kinds["usage.watch_minutes"] == ["value"]
    assert kinds["usage.started_at"] == ["filter"]
    assert kinds["usage.user_id"] == ["join key"]
    [first, *others] = told["expressions"]
    assert first["sql"].startswith("case\n  when coalesce(measured.usage_since <= measured.as_of")
    assert any(other["sql"].startswith("sum(watch_ms) filter(") for other in others)
    assert "churn_v1" in [service["name"] for service in told["services"]]
    assert told["computed"] == ["watch_cost"]
    [training] = told["training_sets"]
    assert training["file"] == "february"
    assert training["as_of"] == ["2024-02-29T00:00:00Z"]
    assert told["age_seconds"] > 365 * 86400
    statuses = {test["status"] for test in told["tests"]}
    assert statuses <= {"pass", "success", "warn"}
    names = [test["name"] for test in told["tests"]]
    assert "in_range_usage_features_0__watch_hours_30d" in names  # its own before its model's
    assert "covers_the_spine_usage_features_" in names[1:]


def test_its_statistics_are_those_of_the_published_values(described: Database) -> None:
    [number, category] = ask(
        described, "/catalogue/watch_hours_trend_30d", "/catalogue/net_service"
    )
    with described.connect() as connection:
        rows = connection.execute(
            "select to_char(as_of, 'YYYY-MM-DD'), count(*),"
            " count(*) - count(watch_hours_trend_30d), avg(watch_hours_trend_30d)"
            " from published.usage_features_latest group by 1 order by 1"
        ).fetchall()
        [(share,)] = connection.execute(
            "select avg((net_service = 'DSL')::int)::float8"
            " from published.subscription_features_latest"
            " where as_of = '2024-03-31' and net_service is not null"
        ).fetchall()
    told = number.json()
    assert [(s["as_of"][:10], s["rows"], s["nulls"]) for s in told["series"]] == [
        r[:3] for r in rows
    ]
    assert [s["mean"] for s in told["series"]] == pytest.approx([r[3] for r in rows])
    for snapshot in told["series"]:
        assert snapshot["quantiles"] == sorted(snapshot["quantiles"])
    assert category.json()["series"][-1]["shares"]["DSL"] == pytest.approx(share)
    drift = told["drift"]
    assert (drift["before"][:10], drift["as_of"][:10]) == ("2024-02-29", "2024-03-31")
    assert sum(now for _, _, now in drift["bars"]) == pytest.approx(1)


def test_features_are_found_by_name_meaning_and_raw_column(described: Database) -> None:
    by_raw, by_meaning, by_name, every, none = (
        answer.json()
        for answer in ask(
            described,
            "/search?q=payments.status",
            "/search?q=negative means watching less",
            "/search?q=complaints",
            "/search",
            "/search?q=xyzzy",
        )
    )
    assert {f["name"] for f in by_raw["features"]} == {
        "failed_payments_90d",
        "paid_amount_90d",
        "days_since_last_failed_payment",
    }
    assert [f["name"] for f in by_meaning["features"]] == ["watch_hours_trend_30d"]
    assert by_name["features"][0]["name"] == "complaints_90d"
    assert len(every["features"]) == every["total"] > 35
    assert none["features"] == []


def test_a_lineage_is_drawn_from_raw_files_to_services(described: Database) -> None:
    plain, computed = ask(
        described,
        "/catalogue/watch_hours_30d/lineage.svg",
        "/catalogue/offer_discount.offered_discount/lineage.svg",
    )
    assert plain.headers["content-type"] == "image/svg+xml"
    drawn = ElementTree.fromstring(plain.text)
    about = drawn.attrib["aria-label"]
    for part in ("usage.watch_minutes", "stg_usage", "usage_features", "watch_cost", "churn_v1"):
        assert part in about
    titles = [found.text for found in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert {"value", "filter", "join key"} <= set(titles)
    other = ElementTree.fromstring(computed.text).attrib["aria-label"]
    assert "subscriptions.monthly_fee" in other
    assert "offered_fee" in other


def test_before_it_was_made_the_catalogue_says_what_the_registry_knows(online: Database) -> None:
    one, drawn, unknown, twice, of_view, found = ask(
        online,
        "/catalogue/monthly_fee",
        "/catalogue/monthly_fee/lineage.svg",
        "/catalogue/nothing",
        "/catalogue/score",
        "/catalogue/watch_features.score",
        "/search?q=fee",
    )
    assert one.json()["description"] == "About monthly_fee."
    assert one.json()["described"] is False
    assert drawn.status_code == 200
    assert unknown.status_code == 404
    assert "GET /search?q= finds those" in unknown.json()["detail"]
    assert twice.status_code == 422
    assert "plan_features.score and watch_features.score" in twice.json()["detail"]
    assert of_view.json()["view"] == "watch_features"
    assert [f["name"] for f in found.json()["features"]] == ["monthly_fee"]


def test_it_is_closed_where_the_features_are(online: Database) -> None:
    paths = ("/search?q=x", "/catalogue/monthly_fee", "/catalogue/monthly_fee/lineage.svg")
    assert [a.status_code for a in ask(online, *paths, keys=KEY)] == [401] * 3
    [page] = ask(online, "/browse", keys=KEY)
    assert page.status_code == 200  # it holds no data
    assert "default-src 'self'" in page.headers["content-security-policy"]


def test_names_in_a_drawing_are_escaped() -> None:
    from serving.lineage_svg import lineage_svg

    use = {"table": "a<b", "column": 'c"&d', "kinds": ["value"]}
    feature = {
        "view": "v<script>", "name": "n&", "on_demand": False, "unit": "<", "type": "text",
        "raw": [use], "models": [], "inputs": [], "request": [], "computed": [],
        "services": [{"name": "s'", "field": "other", "description": ""}],
    }  # fmt: skip
    assert "a<b" in ElementTree.fromstring(lineage_svg(feature)).attrib["aria-label"]


def test_no_document_holds_what_json_cannot(described: Database) -> None:
    for *_, document in Kept["rows"]:
        json.loads(document, parse_constant=pytest.fail)


def test_the_page_works_by_keyboard_on_a_phone_and_in_the_dark(
    described: Database, free_port: Callable[[], int], session_folder: Path
) -> None:
    path = chromium()
    if path is None:
        pytest.skip("PAGE NOT TESTED: no Chromium here; apt-get install chromium")
    port = free_port()
    with (
        api(described, port, session_folder / "browse-api.log"),
        browser(path, session_folder / "browse-chromium") as tab,
    ):
        tab.look(width=1100, height=900)
        tab.open(f"http://127.0.0.1:{port}/browse")
        tab.wait("document.querySelector('.found li')")
        assert tab.run(FOCUSED) == "words"
        tab.press("usage.watch_minutes", "Enter")
        tab.wait("document.querySelector('h1').innerText.includes('usage.watch_minutes')")
        assert "6 of" in tab.text(".count")
        tab.press("Tab", "Tab")
        assert tab.run(FOCUSED) == "watch_hours_30d"
        tab.press("Enter")
        tab.wait("document.querySelector('svg.lineage')")
        text = tab.text("#result")
        for words in (
            "watch_hours_30d", "hours", "feature-platform", "Raw columns", "Time watched.",
            "coalesce(measured.ms_30d, 0)", "Drift", "churn_v1", "february", "Tests",
        ):  # fmt: skip
            assert words in text, words
        for look in ({"width": 1100}, {"width": 1100, "dark": True}, {"width": 360}):
            tab.look(height=900, **look)
            assert tab.run(OVERFLOW) <= 0, look
            contrast, where = tab.run(CONTRAST)
            assert contrast >= 4.5, (look, where)
        tab.run("history.back()")
        tab.wait("document.querySelector('.found li')")
        assert tab.complaints == []
        assert {url.split("/")[2] for url in tab.asked if url.startswith("http")} == {
            f"127.0.0.1:{port}"
        }
