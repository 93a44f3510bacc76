"""`make screenshots`: the pictures of docs/charts.md, taken in Chromium of charts of seeded events. No test.

It runs under pytest because the running service is one of its fixtures.
"""

from __future__ import annotations

import io

import pytest
from PIL import Image

from tests.chart_kit import CHARTS, OCTOBER, chromium, october, page_of, seed, token_path
from tests.client import Client
from tests.service import ROOT

DIRECTORY = ROOT / "docs" / "charts"
HEIGHTS = {
    "bar-groups": {1600: 560, 320: 470},
    "number": {1600: 220, 320: 320},
    "pie": {1600: 420, 320: 470},
    "table": {1600: 530, 320: 470},
}
USUAL = {1600: 720, 320: 340}


@pytest.mark.service
@pytest.mark.browser
def test_take_pictures(client: Client) -> None:
    DIRECTORY.mkdir(exist_ok=True)
    shop = seed(client, october())
    with chromium() as browser:
        for name, body in CHARTS.items():
            path = token_path(shop, time_period=OCTOBER, **body)
            for width, height in HEIGHTS.get(name, USUAL).items():
                for scheme in ("light", "dark"):
                    with page_of(browser, scheme, width, height) as (page, said):
                        page.goto(shop.keys["url"] + path)
                        taken = Image.open(io.BytesIO(page.screenshot(full_page=True)))
                        assert not said, said
                    few = taken.convert("RGB").quantize(
                        256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
                    )
                    few.save(DIRECTORY / f"{name}-{width}-{scheme}.png", optimize=True)
