"""Charts in real Chromium: legible in every size and scheme, nothing runs or loads, and a page of another origin.

`make screenshots` takes the pictures of docs/charts.md from the same charts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.chart_kit import (
    CHARTS,
    FACTS,
    OCTOBER,
    assert_legible,
    chromium,
    october,
    page_of,
    seed,
    token_path,
)
from tests.client import Client
from tests.other_origin import Site
from tests.waiting import until

pytestmark = [pytest.mark.service, pytest.mark.browser]

SIZES = ((320, 480), (600, 360), (1100, 360), (1600, 360), (1600, 800))
HOSTILE = [
    "</script><script>window.pwned = 1</script>",
    '"><img src=x onerror="window.pwned = 1">',
    "</title></svg><style>*{display:none}</style><svg onload=window.pwned=1>",
    "مرحبا \u202e\u2066reversed",
    "🎉👩‍👩‍👧‍👦 emoji",
    "long " * 1500,
    "WIDE" * 30,
    "漢字" * 30,
    "lines\nand\ttabs\u0000\u0007",
    "{{ 7 * 7 }} ${7*7} &lt;b&gt; &amp;",
    "",
    " ",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def shop(client: Client) -> Client:
    return seed(client, october())


def opened(page: Page, project: Client, **body: Any) -> dict[str, Any]:
    """The facts of the page that a token for `body` shows."""
    page.goto(project.keys["url"] + token_path(project, **body))
    facts: dict[str, Any] = page.evaluate(FACTS)
    return facts


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_chart_is_legible_from_320_to_1600_pixels(browser: Browser, shop: Client, scheme: str) -> None:
    with page_of(browser, scheme, *SIZES[0]) as (page, said):
        for name, body in CHARTS.items():
            path = token_path(shop, time_period=OCTOBER, **body)
            page.set_viewport_size({"width": SIZES[0][0], "height": SIZES[0][1]})
            page.goto(shop.keys["url"] + path)
            for width, height in SIZES if scheme == "light" else SIZES[::4]:
                page.set_viewport_size({"width": width, "height": height})
                facts = page.evaluate(FACTS)
                where = f"{name} {scheme} {width}x{height}"
                assert_legible(facts, where)
                assert facts["drawings"] == (name not in ("number", "table")), where
                words = {text["text"] for text in facts["texts"]}
                assert body["chart"]["title"] in words
                if name in ("line", "area", "bar"):
                    assert any("Oct" in word for word in words), where
                    assert facts["marks"] >= (30 if name == "bar" else 4), where
            assert not said, said


def test_the_scheme_is_the_readers_and_can_be_fixed(browser: Browser, shop: Client) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    seen: dict[tuple[str, str], str] = {}
    for scheme in ("light", "dark"):
        with page_of(browser, scheme, 600, 400) as (page, _):
            for theme in ("auto", "light" if scheme == "dark" else "dark"):
                body = CHARTS["line"] | {"chart": {"theme": theme}}
                opened(page, shop, time_period=OCTOBER, **body)
                seen[scheme, theme] = page.evaluate(background)
    assert seen["light", "auto"] == seen["dark", "light"] == "rgb(255, 255, 255)"
    assert seen["dark", "auto"] == seen["light", "dark"]
    assert seen["dark", "auto"] != "rgb(255, 255, 255)"


def test_hostile_values_are_text_everywhere(browser: Browser, client: Client) -> None:
    """As a group, a series, a cell, a title and a unit; in drawings, legends, tables and hover texts."""
    project = seed(client, [{"event_name": "e", "label": value, "n": 1e308} for value in HOSTILE * 2])
    query: dict[str, Any] = {"time_period": "today", "group_by": ["label"]}
    sums = {"computations": [{"function": "sum", "field_name": "n", "as": HOSTILE[0]}, {"function": "count"}]}
    count = {"computations": [{"function": "count", "as": HOSTILE[1]}]}
    chart = {"title": HOSTILE[2], "unit": "</b>\u202e<b>"}
    bodies = [
        query | sums | {"chart": chart | {"type": "bar"}},
        query | count | {"chart": chart | {"type": "pie"}},
        query | count | {"chart": chart | {"type": "table"}},
        query | count | {"chart": chart | {"type": "line"}, "group_by_time": "hour"},
        query | count | {"chart": chart | {"type": "area"}, "group_by_time": "hour"},
        {"time_period": "today", "chart": chart},
        {"time_period": "today", **sums, "chart": chart | {"type": "number"}},
    ]
    with page_of(browser, "light", 320, 480) as (page, said):
        for body in bodies:
            facts = opened(page, project, **body)
            assert_legible(facts, str(body["chart"].get("type")))
            assert page.evaluate("window.pwned") is None
            assert page.evaluate("document.querySelectorAll('style').length") == 1
            assert page.title() == HOSTILE[2]
            assert not said, said


def test_nothing_that_happened_is_said_so(browser: Browser, client: Client) -> None:
    project = client.new_project()
    with page_of(browser, "dark", 320, 300) as (page, said):
        for name in ("line", "pie", "table"):
            facts = opened(page, project, time_period="yesterday", **CHARTS[name])
            assert "No events in this period" in {text["text"] for text in facts["texts"]}, name
            assert_legible(facts, name)
            assert not said, said


def test_as_many_points_as_there_may_be(browser: Browser, client: Client) -> None:
    """A day of minutes and of nine groups, on a narrow screen too."""
    start = "2026-10-05T00:00:00Z"
    times = [f"2026-10-05T{hour:02d}:{minute:02d}:00Z" for hour in range(24) for minute in range(0, 60, 2)]
    events = [
        {"event_name": "e", "timestamp": at, "group": f"g{i % 11}"} for i, at in enumerate([start, *times])
    ]
    project = seed(client, events)
    body: dict[str, Any] = {
        "time_period": {"start": start, "end": "2026-10-06T00:00:00Z"},
        "group_by_time": "minute",
        "group_by": ["group"],
        "computations": [{"function": "count"}],
    }
    with page_of(browser, "light", 320, 480) as (page, said):
        facts = opened(page, project, **body, chart={"type": "line"})
        assert_legible(facts, "1440 points")
        assert "other (3)" in {text["text"] for text in facts["texts"]}
        refused = page.goto(project.keys["url"] + token_path(project, **body, chart={"type": "bar"}))
        assert refused is not None
        assert refused.status == 400
        assert '"5_minutes" gives about 288' in page.inner_text("body")
        assert len(said) == 1, said  # that the answer was a 400
        assert_legible(page.evaluate(FACTS), "the error")


def test_a_page_of_another_origin_shows_a_chart_until_it_expires_or_is_revoked(
    browser: Browser, shop: Client, site: Site
) -> None:
    headers = {"x-eventbunker-query-key": shop.keys["query_key"]}

    def made(**more: Any) -> dict[str, Any]:
        body = {"time_period": OCTOBER, **CHARTS["line"], **more}
        answer = shop.http.post("/v1/query/iframe/token", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        token: dict[str, Any] = answer.json()
        return token

    ours = site.url.rstrip("/")
    lasting, short, other = (
        made(allowed_origins=[ours]),
        made(expires_in=4),
        made(allowed_origins=["https://example.com"]),
    )
    site.page = "<!doctype html>" + "".join(
        f'<iframe name="{name}" width="600" height="360" src="{shop.keys["url"]}{token["path"]}"></iframe>'
        for name, token in (("lasting", lasting), ("short", short), ("other", other))
    )
    with page_of(browser, "light", 1300, 800) as (page, said):

        def shows(name: str) -> str:
            frame = page.frame(name)
            assert frame is not None
            return frame.locator("body").inner_text()

        page.goto(site.url)
        assert "Page views by plan" in shows("lasting")
        assert "Page views by plan" in shows("short")
        assert "Page views" not in shows("other"), "only example.com may show this one"
        assert [line for line in said if "frame-ancestors" in line], said

        def expired() -> bool:
            page.reload()
            return "Chart token expired" in shows("short")

        until(expired, 30, "the end of the short token")
        assert "Page views by plan" in shows("lasting")
        revoked = shop.http.post(
            "/v1/query/iframe/token/revoke", json={"token_id": lasting["token_id"]}, headers=headers
        )
        assert revoked.json() == {"revoked": 1}
        page.reload()
        assert "Chart token revoked" in shows("lasting")
        assert "Page views" not in shows("lasting") + shows("short")
