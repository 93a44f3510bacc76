"""Real Chromium, a page of another origin: fetch with a preflight, sendBeacon without, errors readable."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile

import pytest

from tests.client import Client, equals, unique
from tests.other_origin import Site
from tests.waiting import until

pytestmark = [pytest.mark.service, pytest.mark.browser]

BROWSER_SECONDS = 60.0
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)
PAGE = """<!doctype html><script>
const service = %(url)s, key = %(key)s, name = %(name)s;
const post = (body, headers) => fetch(service + "/post", {method: "POST", headers, body: JSON.stringify(body)});
const told = async (answer) => ({
  status: answer.status, body: await answer.json(),
  request_id: answer.headers.get("x-request-id"), readable: answer.headers.has("x-request-id"),
});
(async () => {
  const report = {};
  try {
    const headers = {"x-eventbunker-write-key": key, "content-type": "application/json"};
    report.fetched = await told(await post({event_name: name, how: "fetch"}, headers));
    report.broken = await told(await post({event_name: "a b"}, headers));
    report.unknown = await told(await post({event_name: name}, {"x-eventbunker-write-key": "nonsense"}));
    report.too_large = await told(await post({event_name: name, text: "x".repeat(70000)}, headers));
    report.simple = await told(await fetch(service + "/post?write_key=" + key, {
      method: "POST", body: JSON.stringify({event_name: name, how: "simple"})}));
    report.beacon = navigator.sendBeacon(
      service + "/post?write_key=" + key, JSON.stringify({event_name: name, how: "beacon"}));
  } catch (error) { report.error = String(error); }
  await fetch("/report", {method: "POST", body: JSON.stringify(report)});
})();
</script>"""


@pytest.fixture
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        assert not os.environ.get("CI"), "CI must have Chromium: apt-get install chromium"
        pytest.skip("no Chromium; apt-get install chromium")
    return found


def test_a_page_of_another_origin_can_track(client: Client, site: Site, chromium: str) -> None:
    project = client.new_project()
    name = unique("browser")
    values = {"url": project.keys["url"], "key": project.keys["write_key"], "name": name}
    site.page = PAGE % {key: json.dumps(value) for key, value in values.items()}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = subprocess.Popen(
            [chromium, *FLAGS, f"--user-data-dir={profile}", site.url],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            report = until(lambda: site.report, BROWSER_SECONDS, "the page's report")
            assert "error" not in report, report
            hows = {"fetch", "simple", "beacon"}
            by_name = equals("event_name", name)
            until(
                lambda: {e["how"] for e in project.events(by_name)} == hows, 20, "all three events in a query"
            )
        finally:
            browser.terminate()
            browser.wait(20)
    assert report["fetched"]["status"] == 200
    assert report["fetched"]["body"]["unique_req_id"].startswith(report["fetched"]["request_id"])
    assert report["simple"]["status"] == 200
    assert report["beacon"] is True
    for what, status, error in (
        ("broken", 400, "Body JSON validation failed."),
        ("unknown", 401, "Invalid x-eventbunker-write-key"),
        ("too_large", 413, "Body too large"),
    ):
        assert (report[what]["status"], report[what]["body"]["error"]) == (status, error)
        assert report[what]["readable"], "without CORS on errors a script sees status 0"
    events = project.events(by_name)
    assert {event["browser_name"] for event in events} & {"HeadlessChrome", "Chrome"}
    assert {event["page_url"] for event in events} == {site.url}
