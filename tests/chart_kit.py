"""Charts in a real browser: events to draw, the charts that docs/ show, Chromium, and what a page says of itself."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from app.chart_page import Shown, chart_page
from app.chart_request import read_chart_query
from tests.client import Client
from tests.waiting import until

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")
START = datetime(2026, 10, 1, tzinfo=UTC)
DAYS = 30
MIN_PIXELS = 11
MIN_CONTRAST = 4.5
OCTOBER = {"start": "2026-10-01", "end": "2026-10-31"}
PLANS = (("free", 60), ("pro", 24), ("team", 11), ("enterprise", 5))
COUNTRIES = (
    *("Germany", "United States of America", "France", "United Kingdom", "Spain", "Netherlands"),
    *("Japan", "Poland", "Italy", "Brazil", "Sweden", "India"),
)
_COUNT = {"function": "count"}
_REVENUE = {"function": "sum", "field_name": "price", "as": "revenue"}

# What docs/charts.md shows, one for each type; `chart` and query in one body.
CHARTS: dict[str, dict[str, Any]] = {
    "line": {
        "group_by_time": "day",
        "group_by": ["plan"],
        "computations": [_COUNT],
        "chart": {"type": "line", "title": "Page views by plan"},
    },
    "area": {
        "group_by_time": "day",
        "group_by": ["plan"],
        "computations": [_COUNT],
        "chart": {"type": "area", "title": "Page views by plan"},
    },
    "bar": {
        "group_by_time": "day",
        "computations": [_REVENUE],
        "chart": {"type": "bar", "title": "Revenue a day", "unit": "€"},
    },
    "bar-groups": {
        "group_by": ["country", "plan"],
        "computations": [_REVENUE],
        "chart": {"type": "bar", "title": "Revenue by country and plan", "unit": "€"},
    },
    "pie": {
        "group_by": ["country"],
        "computations": [_REVENUE],
        "chart": {"type": "pie", "title": "Revenue by country", "unit": "€", "top": 6},
    },
    "number": {
        "computations": [
            {"function": "count", "as": "page views"},
            {"function": "count_distinct", "field_name": "customer_identifier", "as": "visitors"},
            _REVENUE,
        ],
        "chart": {"type": "number", "title": "October in numbers"},
    },
    "table": {
        "group_by": ["country"],
        "computations": [
            {"function": "count_distinct", "field_name": "customer_identifier", "as": "visitors"},
            _REVENUE,
        ],
        "order_by": [{"field_name": "revenue", "direction": "DESC"}],
        "chart": {"type": "table", "title": "Countries"},
    },
}


def october(count: int = 4000) -> list[dict[str, Any]]:
    """A month of page views of a small shop: weekdays are busier, afternoons too. The same every time."""
    rng = random.Random(5)
    events: list[dict[str, Any]] = []
    while len(events) < count:
        day = rng.randrange(DAYS)
        moment = START + timedelta(days=day, hours=min(23.99, max(0.0, rng.gauss(14, 4))))
        if moment.weekday() >= 5 and rng.random() < 0.55:
            continue
        if rng.random() > 0.55 + day / 70:  # it grows
            continue
        [plan] = rng.choices([name for name, _ in PLANS], [weight for _, weight in PLANS])
        [country] = rng.choices(COUNTRIES, [1 / (place + 1) ** 0.8 for place in range(len(COUNTRIES))])
        event: dict[str, Any] = {
            "event_name": "page_view",
            "timestamp": moment.isoformat(timespec="milliseconds"),
            "customer_identifier": f"c{int(rng.paretovariate(0.4)) % 900}",
            "plan": plan,
            "country": country,
        }
        if rng.random() < 0.3:
            event["price"] = round(rng.lognormvariate(3.4, 0.9), 2)
        events.append(event)
    return events


def seed(client: Client, events: list[dict[str, Any]]) -> Client:
    """A new project that holds `events`, when a query sees them."""
    project = client.new_project()
    answer = project.http.post(
        "/batch", content=json.dumps(events), headers={"x-eventbunker-write-key": project.keys["write_key"]}
    )
    assert answer.json()["rejected"] == 0, answer.text
    until(lambda: project.rows(computations=[_COUNT])[0]["count"] == len(events), 30, "the events in a query")
    return project


def token_path(project: Client, **body: Any) -> str:
    """The path of a page that shows the chart in `body`."""
    headers = {"x-eventbunker-query-key": project.keys["query_key"]}
    answer = project.http.post("/v1/query/iframe/token", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    path: str = answer.json()["path"]
    return path


@contextmanager
def chromium() -> Iterator[Browser]:
    """The Chromium of this machine. Skips, or fails in CI, where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        assert not os.environ.get("CI"), "CI must have Chromium: apt-get install chromium"
        pytest.skip("no Chromium; apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield browser
        browser.close()


@contextmanager
def page_of(browser: Browser, scheme: Any, width: int, height: int) -> Iterator[tuple[Page, list[str]]]:
    """A page of that size and colour scheme, and what its console says: errors, and breaches of its policy."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page, said = context.new_page(), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page, said
    context.close()


# What a page tells of each piece of text that is to be seen: where it is, how large, in which colours.
FACTS = """() => {
  const shown = (e) => e.checkVisibility({checkOpacity: true, checkVisibilityCSS: true});
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (c !== "rgba(0, 0, 0, 0)" && c !== "transparent") return c;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const e = node.parentElement;
    if (!node.data.trim() || e.tagName === "title" || !shown(e) || e.closest("title")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect(), svg = e.closest("svg"), style = getComputedStyle(e);
    const scale = svg ? e.getScreenCTM().a : 1;
    const frame = (svg || document.documentElement).getBoundingClientRect();
    texts.push({
      text: node.data, size: parseFloat(style.fontSize) * scale, in_svg: Boolean(svg),
      colour: svg ? style.fill : style.color, behind: behind(e), scrolls: Boolean(e.closest(".scroll")),
      axis: svg ? (e.closest(".axis.x") ? "x" : e.closest(".axis.y") ? "y" : "") : "",
      box: [box.left, box.top, box.right, box.bottom],
      frame: [frame.left, frame.top, frame.right, frame.bottom],
    });
  }
  return {
    texts, width: innerWidth, scroll_width: document.documentElement.scrollWidth,
    drawings: [...document.querySelectorAll("svg")].filter(shown).length,
    marks: [...document.querySelectorAll("svg .series path, svg .series rect")].filter(shown).length,
    strangers: [...document.querySelectorAll("script, img, link, iframe, object, a, form, input")].length,
  };
}"""


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two CSS colours, as WCAG 2 defines it."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in (c / 255 for c in parts)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def drawing(values: list[float], kind: str, axis: str, account: str, unit: str) -> str:
    """A page that shows `values`, of as many days or of as many accounts."""
    now_ms = int((START + timedelta(days=len(values))).timestamp() * 1000)
    body = {
        "time_period": OCTOBER,
        "computations": [{"function": "sum", "field_name": "n"}],
        axis: "day" if axis == "group_by_time" else ["account"],
        "chart": {"type": kind, "unit": unit},
    }
    rows = [
        {"event_time": f"{START + timedelta(days=at):%Y-%m-%d}T00:00:00.000Z", "account": f"{account}{at}"}
        | {"sum_n": value}
        for at, value in enumerate(values)
    ]
    asked = read_chart_query(json.dumps(body).encode(), now_ms)
    return chart_page(Shown(asked.chart, asked.query, rows, now_ms, now_ms))


def assert_legible(facts: dict[str, Any], where: str) -> None:
    """Large and dark enough, inside its frame, and no label of an axis upon another."""
    assert facts["scroll_width"] <= facts["width"], f"{where}: it scrolls sideways"
    assert facts["strangers"] == 0, where
    for text in facts["texts"]:
        said = f"{where}: {text['text'][:40]!r} {text}"
        assert text["size"] >= MIN_PIXELS, said
        assert contrast(text["colour"], text["behind"]) >= MIN_CONTRAST, said
        if text["scrolls"]:
            continue
        (left, top, right, bottom), frame = text["box"], text["frame"]
        assert left >= frame[0] - 1, said
        assert right <= frame[2] + 1, said
        if text["in_svg"]:
            assert top >= frame[1] - 1, said
            assert bottom <= frame[3] + 1, said
    for axis in ("x", "y"):
        boxes = [text["box"] for text in facts["texts"] if text["axis"] == axis]
        assert not [
            (one, other)
            for index, one in enumerate(boxes)
            for other in boxes[index + 1 :]
            if one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
        ], f"{where}: labels of the {axis} axis overlap"
