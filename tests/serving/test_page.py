"""The page for people, in a real browser: what it shows, by keyboard, in light and dark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data.database import Database
from tests.serving.browser import Tab, browser, chromium
from tests.serving.processes import api

WIDE = {"width": 1100, "height": 900}
KEY = "page-key-0123456789"

# The least contrast of any text with what lies behind it, by the formula of WCAG 2.
CONTRAST = """
(() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = numbers(color).map((c) => c / 255)
      .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if ((numbers(color)[3] ?? 1) > 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  let worst = [21, ""];
  for (const element of document.querySelectorAll("body *")) {
    const words = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!words || !element.offsetParent || element.closest("svg, noscript, option")) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort();
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < worst[0]) worst = [contrast, element.outerHTML.slice(0, 200)];
  }
  return worst;
})()
"""
FOCUSED = "document.activeElement.id || document.activeElement.innerText"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def tab(session_folder: Path) -> Iterator[Tab]:
    path = chromium()
    if path is None:
        pytest.skip("PAGE NOT TESTED: no Chromium here; apt-get install chromium")
    with browser(path, session_folder / "chromium") as tab:
        yield tab


@pytest.fixture
def page(tab: Tab, quick_api: int) -> Tab:
    tab.asked.clear()
    tab.complaints.clear()
    tab.look(**WIDE)
    tab.open(f"http://127.0.0.1:{quick_api}/")
    tab.wait("document.querySelector('#service option')")
    return tab


def test_a_user_is_looked_up_by_keyboard_alone(page: Tab, quick_api: int) -> None:
    assert page.run(FOCUSED) == "user"
    page.press("7590-VHVEG", "Enter")
    page.wait("document.querySelector('.plot') && document.querySelector('details')")
    text = page.text("#result")
    for words in (
        "7590-VHVEG",
        "29 Feb 2024 UTC",
        "plan_features",
        "About monthly_fee.",
        "29.85",
        "hours",
        "0bd0cd1f-6a3c-4a0a-8d5c-0a8e0a1c9d11",
        "11 earlier values",
    ):
        assert words in text
    assert page.run("location.search") == "?user=7590-VHVEG"
    seen = []
    while "details" not in seen:
        page.press("Tab")
        seen.append(page.run("document.activeElement.tagName.toLowerCase()"))
        if seen[-1] == "summary":
            page.press("Enter")
            assert page.run("document.querySelector('details').open")
            break
        assert len(seen) < 40, seen
    assert {"select", "button", "a"} <= set(seen)
    rows = page.run("[...document.querySelectorAll('details[open] tr')].map((r) => r.innerText)")
    assert len(rows) == 11
    assert rows[0].split("\t") == ["29 Jan 2024 UTC", "28.85"]
    lineage = page.run("document.querySelector('.feature a').href")
    assert lineage == "http://127.0.0.1:8080/#!/model/model.streamflow.plan_features?g_v=1"
    assert page.complaints == []
    foreign = [a for a in page.asked if not a.startswith(f"http://127.0.0.1:{quick_api}/")]
    assert foreign == []


def test_an_example_the_address_and_the_way_back(page: Tab, quick_api: int) -> None:
    page.wait("document.querySelector('#examples a')")
    first = page.text("#examples a")
    page.run("document.querySelector('#examples a').click()")
    page.wait(f"document.querySelector('h1')?.innerText === {first!r}")
    page.open(f"http://127.0.0.1:{quick_api}/?user=u00003&service=churn_v1")
    page.wait("document.querySelector('h1')?.innerText === 'u00003'")
    names = page.run("[...document.querySelectorAll('.feature .name')].map((n) => n.innerText)")
    assert names == ["monthly_fee", "skips_7d"]
    page.run("document.querySelector('#service').value = 'one_feature'")
    page.run("document.querySelector('#service').dispatchEvent(new Event('change'))")
    page.wait("document.querySelectorAll('.feature').length === 1")
    page.run("history.back()")
    page.wait("document.querySelectorAll('.feature').length === 2")


def test_it_says_what_is_not_known(page: Tab, quick_api: int) -> None:
    page.open(f"http://127.0.0.1:{quick_api}/?user=nobody")
    page.wait("document.querySelector('h1')")
    assert "Nothing is known about this user" in page.text("#result")
    assert "No row for this user." in page.text("#result")
    page.open(f"http://127.0.0.1:{quick_api}/?user=expired")
    page.wait("document.querySelector('.badge.older_than_ttl')")
    page.open(f"http://127.0.0.1:{quick_api}/?user=a%01b")
    page.wait("document.querySelector('.problem')")
    assert "user id of 1 to 200 characters" in page.text("#message")
    hostile = "<img src=x onerror=document.title='owned'>"
    page.run(f"location.search = '?user=' + encodeURIComponent({hostile!r})")
    page.wait("document.querySelector('h1')?.textContent.startsWith('<img')")
    assert "owned" not in page.run("document.title.replace(/^<img.*>/, '')")
    assert page.run("document.querySelectorAll('img').length") == 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1100, 360])
def test_it_can_be_read(page: Tab, quick_api: int, dark: bool, width: int, tmp_path: Path) -> None:
    page.look(width=width, height=1600, dark=dark)
    page.open(f"http://127.0.0.1:{quick_api}/?user=7590-VHVEG")
    page.wait("document.querySelector('.plot') && document.querySelector('details')")
    contrast, where = page.run(CONTRAST)
    assert contrast >= 4.5, where
    assert page.run(OVERFLOW) <= 0
    light = page.run("getComputedStyle(document.documentElement).backgroundColor")
    assert (light == "rgb(253, 252, 249)") != dark
    page.shoot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000


def test_the_plots_and_fields_have_names(page: Tab, quick_api: int) -> None:
    page.open(f"http://127.0.0.1:{quick_api}/?user=7590-VHVEG")
    page.wait("document.querySelector('.plot')")
    nodes = page.do("Accessibility.getFullAXTree")["nodes"]
    for role in ("textbox", "combobox", "button", "image", "link", "heading"):
        named = [n["name"]["value"] for n in nodes if n.get("role", {}).get("value") == role]
        assert named, role
        assert all(named), (role, named)


def test_with_keys_it_asks_for_one(
    tab: Tab, online: Database, free_port: Callable[[], int], tmp_path: Path
) -> None:
    port = free_port()
    with api(online, port, tmp_path / "log", keys=KEY):
        tab.open(f"http://127.0.0.1:{port}/?user=u00003")
        tab.wait("!document.querySelector('#key').hidden")
        assert "API key" in tab.text("#message")
        tab.run("document.querySelector('#key-value').focus()")
        tab.press(KEY, "Enter")
        tab.wait("document.querySelector('h1')?.innerText === 'u00003'")
        tab.wait("document.querySelector('.plot')")
        assert tab.run("document.querySelector('#key').hidden")


def test_the_documentation_shows_every_operation_and_problem(page: Tab, quick_api: int) -> None:
    page.complaints.clear()
    page.open(f"http://127.0.0.1:{quick_api}/docs#problem-past-vector")
    page.wait("document.querySelector('#problems')")
    document = page.run("fetch('/openapi.json').then((r) => r.json())")
    text = page.text()
    for path in document["paths"]:
        assert path in text
    for kind in document["x-problems"]:
        assert page.run(f"Boolean(document.getElementById('problem-{kind}'))")
    assert f"curl http://127.0.0.1:{quick_api}/features/7590-VHVEG" in text
    assert page.complaints == []
    page.look(width=360, height=900)
    assert page.run(OVERFLOW) <= 0
