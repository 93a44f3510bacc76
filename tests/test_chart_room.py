"""Charts in real Chromium whose names, numbers and units need more room than most: all is seen, nothing overlaps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, product

import pytest
from playwright.sync_api import Browser

from tests.chart_kit import FACTS, assert_legible, chromium, drawing, page_of

pytestmark = pytest.mark.browser

SIZES = ((320, 480), (1100, 360), (1600, 800))
ACCOUNTS = ("900719925474099-", "W" * 12, "—%" * 6)  # digits, letters and signs are wider than most text
NUMBERS = {
    "cents": [-0.01, -0.02, -0.03],
    "thousandths": [-0.0015, -0.0005, -0.0025],
    "millionths": [-1e-6, -2e-6, -3e-6],
    "millions": [-2e7, -1e7, 1.5e7],
    "least": [-1e-300, -2e-300, -3e-300],
    "largest": [1.7e308, -1.7e308, 1.0],
    "quintillions": [1e18, 2e18, 3e18],
}
NAMES = (
    "мышь широкоформатная",
    "щжшюыфмщжшюыфмщжшюыф",
    "ЖЕЛЕЗНОДОРОЖНЫЙ ШЛЮЗ",
    "ŒUVRES ÆSTHETICS ŒDIPE",
    "ǄǄǄǄǄǄǄǄǄǄǄǄ",
    "ﬃﬃﬃﬃﬃﬃﬃﬃﬃﬃﬃﬃﬃﬃﬃﬃ",
    "⟶⟶⟶⟶⟶⟶⟶⟶⟶⟶⟶⟶",
    "⅞⅞⅞⅞⅞⅞⅞⅞⅞⅞⅞⅞⅞⅞",
    "ⅧⅧⅧⅧⅧⅧⅧⅧⅧⅧⅧ",
    "№№№№№№№№№№№№№№",
    "‰‰‰‰‰‰‰‰‰‰‰‰‰‰",
    "𝐌𝐌𝐌𝐌𝐌𝐌𝐌𝐌𝐌𝐌𝐌𝐌",
    "m" * 40,
)
UNBROKEN = "\N{HANGUL CHOSEONG HIEUH}" * 10 + "\N{HANGUL JUNGSEONG A}" * 10  # of which no line is made two
PIES: dict[str, tuple[list[float], tuple[str, ...]]] = {
    "beyond the largest float": ([1.7e308, 1.7e308, 1e300], ("3.4e+308", "50.0%", "0.0%")),
    "usual": ([2, 1, 1], ("4", "50.0%", "25.0%")),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


@pytest.mark.parametrize(("scheme", "unit"), [("light", ""), ("dark", "kg")])
def test_axes_are_legible_whatever_the_numbers(browser: Browser, scheme: str, unit: str) -> None:
    """Negative, small, large, and longer than the room that pygal leaves for them; wide names too."""
    with page_of(browser, scheme, *SIZES[0]) as (page, said):
        for (name, values), account in zip(NUMBERS.items(), cycle(ACCOUNTS), strict=False):
            for kind, axis in (("bar", "group_by"), ("bar", "group_by_time"), ("line", "group_by_time")):
                page.set_content(drawing(values, kind, axis, account, unit))
                for width, height in SIZES:
                    page.set_viewport_size({"width": width, "height": height})
                    facts = page.evaluate(FACTS)
                    where = f"{kind} {axis} {name} {scheme} {width}"
                    assert_legible(facts, where)
                    assert not [text for text in facts["texts"] if "∞" in text["text"]], where
        assert not said, said


def test_names_in_any_letters_are_seen_from_their_beginning(browser: Browser) -> None:
    with page_of(browser, "light", *SIZES[0]) as (page, said):
        for name in NAMES:
            page.set_content(drawing([15, 3], "bar", "group_by", name, ""))
            for width, height in SIZES:
                page.set_viewport_size({"width": width, "height": height})
                assert_legible(page.evaluate(FACTS), f"{name} {width}")
        assert not said, said


@pytest.mark.parametrize("kind", ["bar", "line"])
def test_days_stay_apart_however_wide_the_numbers_beside_them(browser: Browser, kind: str) -> None:
    with page_of(browser, "light", *SIZES[0]) as (page, said):
        for unit in ("ms", "日本", "WW"):
            for size in (1e-6, -8.7e-7, -1e-300):
                month = [size * (1 + day * 1e-10) for day in range(30)]
                page.set_content(drawing(month, kind, "group_by_time", "", unit))
                facts = page.evaluate(FACTS)
                assert_legible(facts, f"{kind} {unit} {size}")
                assert [text for text in facts["texts"] if "Oct" in text["text"] and text["axis"] == "x"]
        assert not said, said


@pytest.mark.parametrize("unit", ["", "kg", "日本", "W" * 16, "Stunden je Woche"])
def test_pies_say_their_sum_and_shares_whatever_they_are_of(browser: Browser, unit: str) -> None:
    with page_of(browser, "light", *SIZES[0]) as (page, said):
        for (name, (values, told)), account in product(PIES.items(), ("United States of America ", UNBROKEN)):
            page.set_content(drawing(values, "pie", "group_by", account, unit))
            for width, height in SIZES:
                page.set_viewport_size({"width": width, "height": height})
                facts = page.evaluate(FACTS)
                where = f"{name} {unit} {width}"
                assert_legible(facts, where)
                words = [text["text"] for text in facts["texts"]]
                assert all(any(one in word for word in words) for one in told), where
                [total] = [text for text in facts["texts"] if text["in_svg"]]
                assert total["text"].startswith(told[0]), where
                left, _, right, _ = total["frame"]
                assert total["box"][2] - total["box"][0] <= 0.6 * (right - left), f"{where}: upon the ring"
        assert not said, said
