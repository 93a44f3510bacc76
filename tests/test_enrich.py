"""Enrichment: what is derived from a request is a pure function of the record."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.enrich import Client, Geography, Place, read_campaign, read_client
from app.stream import Record, encode_record, encode_request, join_group, split_group
from tests.store_fixture import ROOT
from workers import rows
from workers.rows import COLUMNS, to_row

CHROME = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1"
IPAD = "Mozilla/5.0 (iPad; CPU OS 16_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/16.6 Mobile/15E148 Safari/604.1"
PIXEL = "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Mobile Safari/537.36"
GALAXY_TAB = "Mozilla/5.0 (Linux; Android 13; SM-X906C) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36"
GOOGLEBOT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"


@pytest.mark.parametrize(
    ("agent", "browser", "system", "device", "is_bot"),
    [
        (CHROME, "Chrome", "Windows", "desktop", False),
        (IPHONE, "Mobile Safari", "iOS", "mobile", False),
        (IPAD, "Mobile Safari", "iOS", "tablet", False),
        (PIXEL, "Chrome Mobile", "Android", "mobile", False),
        (GALAXY_TAB, "Chrome", "Android", "tablet", False),
        (GOOGLEBOT, "Googlebot", None, "bot", True),
        ("curl/8.5.0", "curl", None, "other", False),
    ],
)
def test_user_agents(agent: str, browser: str, system: str | None, device: str, is_bot: bool) -> None:
    client = read_client(agent)
    assert (client.browser_name, client.os_name, client.device_type, client.is_bot) == (
        browser,
        system,
        device,
        is_bot,
    )


def test_no_user_agent_tells_nothing() -> None:
    client = read_client("")
    assert (client.browser_name, client.device_type, client.is_bot) == (None, None, None)


def test_campaign_comes_from_the_pages_query_string() -> None:
    page = "https://shop.example/x?utm_source=news&utm_medium=e%20mail&utm_source=second&other=1#utm_term=no"
    assert read_campaign(page) == {"utm_source": "news", "utm_medium": "e mail"}
    assert read_campaign("https://[::1?utm_source=x") == {}
    assert read_campaign(None) == {}


@given(st.text(max_size=200))
def test_no_text_breaks_the_derivations(text: str) -> None:
    read_client(text)
    read_campaign(f"https://x/?utm_source={text}&{text}")
    assert Geography("").place(text) == Place()


def record(body: bytes, **changes: object) -> Record:
    values: dict[str, object] = {
        "request_id": bytes(12), "index": 1, "time_recorded": 1_700_000_000_000, "project_id": "prj_1",
        "customer_identifier": "", "client_ip": "", "user_agent": CHROME, "referer": "", "body": body,
    }  # fmt: skip
    return Record(**(values | changes))  # type: ignore[arg-type]


def test_the_same_record_always_gives_the_same_row() -> None:
    one = record(b'{"event_name":"e","page_url":"https://a/?utm_term=x"}', referer="https://b/")
    assert to_row(one, Geography("")) == to_row(one, Geography(""))


def test_the_clients_bytes_end_the_row_untouched() -> None:
    body = b'{ "event_name" : "e", "x": 1.50, "n": null, "u": "\\u00e9" }'
    assert to_row(record(body), Geography("")).data.endswith(body)
    assert COLUMNS[-1] == "body"


def test_a_bound_customer_wins_over_the_bodys() -> None:
    body = b'{"event_name":"e","customer_identifier":"mallory"}'
    row = to_row(record(body, customer_identifier="alice"), Geography("")).data
    assert b"\x05alice" in row[: -len(body)]
    assert b"mallory" not in row[: -len(body)]


@pytest.mark.parametrize(
    ("body", "referer", "page", "referrer"),
    [
        (b'{"event_name":"e"}', "https://page/", b"https://page/", None),
        (b'{"event_name":"e","page_url":"https://own/"}', "https://page/", b"https://own/", b"https://page/"),
        (
            b'{"event_name":"e","page_url":"https://own/","referrer":""}',
            "https://page/",
            b"https://own/",
            None,
        ),
        (b'{"event_name":"e"}', "", None, None),
    ],
)
def test_page_and_referrer(body: bytes, referer: str, page: bytes | None, referrer: bytes | None) -> None:
    row = to_row(record(body, referer=referer, user_agent=""), Geography("")).data[: -len(body)]
    for text in (b"https://page/", b"https://own/"):
        assert (text in row) is (text in (page, referrer))


@given(st.lists(st.tuples(st.binary(max_size=50), st.text(max_size=10)), max_size=20))
def test_a_group_survives_the_stream(parts: list[tuple[bytes, str]]) -> None:
    records = [record(body, referer=text, index=number + 1) for number, (body, text) in enumerate(parts)]
    assert split_group(join_group([encode_record(one) for one in records])) == records


def test_a_request_carries_once_what_its_events_share() -> None:
    bodies = [b'{"n":%d}' % number for number in range(3)]
    request = encode_request(
        b"123456789012",
        1_761_000_000_000,
        "prj_test",
        "customer-17",
        context=("192.0.2.1", "an agent", "https://page/"),
        events=[(number + 2, memoryview(body), f"id-{number}") for number, body in enumerate(bodies)],
    )
    assert request.count(b"an agent") == 1
    other = record(b"{}", index=1)
    alone, *three = split_group(join_group([encode_record(other), request]))
    assert alone == other
    assert [(one.index, one.body, one.event_id) for one in three] == [
        (2, b'{"n":0}', "id-0"),
        (3, b'{"n":1}', "id-1"),
        (4, b'{"n":2}', "id-2"),
    ]
    assert {(one.client_ip, one.user_agent, one.referer) for one in three} == {
        ("192.0.2.1", "an agent", "https://page/")
    }
    assert three[0].unique_req_id == b"123456789012\x00\x00\x00\x02"


def test_what_is_remembered_of_senders_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Safeguard: a User-Agent may have 2048 characters, and a project sends as many as it likes."""
    monkeypatch.setattr(rows, "read_client", lambda _agent: Client())
    rows._sender.cache_clear()
    tracemalloc.start()
    for number in range(5000):
        rows._sender("prj_1", f"{number:04}" * 512)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    rows._sender.cache_clear()
    assert held < 4 * 1024 * 1024


def test_a_drain_takes_part_only_when_it_can_parse_user_agents(tmp_path: Path) -> None:
    """It would stand still for that in the middle of its first batch."""
    program = """
import asyncio, sys
import ua_parser
from pathlib import Path
from tests.pipeline_kit import make_settings
from workers import drain_process

async def join(presence, stop):
    print("parser" in vars(ua_parser))

assert "parser" not in vars(ua_parser)
drain_process._join = join
stop = asyncio.Event()
stop.set()
asyncio.run(drain_process.serve(make_settings(Path(sys.argv[1]), "unix:///none"), stop))
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
