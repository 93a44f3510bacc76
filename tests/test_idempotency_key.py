"""`Idempotency-Key`: what it may hold, how it meets `event_id`, and ten thousand repeats of a thousand events."""

from __future__ import annotations

import asyncio
import itertools
import json
from urllib.parse import urlsplit

import pytest

from app.errors import ApiError, Kind
from app.idempotency_key import choose_event_id
from tests.client import Client, equals, unique
from tests.service import Service, StartService
from tests.test_crash import drain_environment
from tests.waiting import until

EVENTS, COPIES, CONNECTIONS = 1_000, 10, 32


def choose(*values: bytes, body: str | None = None) -> str:
    return choose_event_id({"headers": [(b"idempotency-key", value) for value in values]}, body)


@pytest.mark.parametrize(
    ("value", "event_id"),
    [
        (b'"abc"', "abc"),
        (b"abc", "abc"),
        (b" 8e03978e-40d5-43dd-bc93-6894a57f9324 ", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (b'"a \\"b\\" \\\\ c"', 'a "b" \\ c'),
        (b'a"b\\c', 'a"b\\c'),
        (b'"' + b"x" * 128 + b'"', "x" * 128),
        (b"x" * 128, "x" * 128),
    ],
)
def test_a_key_is_quoted_or_bare(value: bytes, event_id: str) -> None:
    assert choose(value) == event_id
    assert choose(value, body=event_id) == event_id


@pytest.mark.parametrize(
    "value",
    [b"", b"  ", b'""', b'"abc', b'"a"b"', b'"a\\', b'"a\\n"', b'"a"; b=1', b"\xc3\xbc", b"a\x01", b"a\tb",
     b"x" * 129, b'"' + b"x" * 129 + b'"', b"\x7f"],
)  # fmt: skip
def test_anything_else_is_refused_with_its_reason(value: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        choose(value)
    assert refused.value.kind is Kind.INVALID_IDEMPOTENCY_KEY
    assert refused.value.detail.startswith("Idempotency-Key: ")


def test_two_different_ids_are_refused_and_none_is_no_id() -> None:
    for values, body in (((b"a",), "b"), ((b"a", b"a"), None), ((b"a", b"b"), None)):
        with pytest.raises(ApiError):
            choose(*values, body=body)
    assert choose() == ""
    assert choose(body="b") == "b"


@pytest.mark.service
def test_copies_by_header_and_body_are_one_event(client: Client) -> None:
    name, key = unique("once"), unique("key")
    quoted = json.dumps(key)
    for body, header in (({}, quoted), ({}, key), ({"event_id": key}, ""), ({"event_id": key}, key)):
        response = client.post({"event_name": name, **body}, idempotency_key=header)
        assert response.status_code == 200, response.text
    client.one(client.track(event_name=unique("later"))["unique_req_id"])
    (event,) = client.events(equals("event_name", name))
    assert event["event_id"] == key
    refused = client.post({"event_name": name, "event_id": "other"}, idempotency_key=key)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_idempotency_key")
    assert "send only one of them" in refused.json()["detail"]


@pytest.mark.service
@pytest.mark.timeout(240)
def test_ten_thousand_repeats_of_a_thousand_events(start_service: StartService) -> None:
    """Over two edges at once, with the drain killed in the middle: a thousand events, each once."""
    quiet = "[observability]\ncanary_interval = 0\n"  # its events would count in the ledger
    first = start_service(deploy=quiet)
    environ = drain_environment(first)
    second = start_service(
        deploy=quiet,
        environ={name: environ[name] for name in ("REDIS_URL", "CLICKHOUSE_URL", "CLICKHOUSE_PASSWORD")},
    )
    name = unique("repeats")
    with Client(first.keys).http as http:
        client = Client(first.keys, http)
        told = asyncio.run(_repeat([first.url, second.url], first.keys["write_key"], name, first))
        assert told == EVENTS * COPIES
        until(lambda: client.count(name) >= EVENTS, 60, "all events")
        fresh = client.track(event_name=unique("later"))["unique_req_id"]
        client.one(fresh)  # what was sent before it has been drained
        found: list[str] = []
        for start in range(0, EVENTS + 1, 500):
            page = client.rows(filters=[equals("event_name", name)], limit=500, offset=start)
            found += [row["event_id"] for row in page]
        assert len(found) == EVENTS
        assert sorted(found) == sorted(f"{name}-{number}" for number in range(EVENTS))
        metrics = http.get("/metrics").text
    fates = {
        fate: int(float(line.rpartition(" ")[2]))
        for line in metrics.splitlines()
        for fate in ("appended", "stored", "duplicate", "dead")
        if line.startswith("eventbunker_ledger_events{") and f'fate="{fate}"' in line
    }
    assert fates["appended"] == EVENTS * COPIES + 1
    assert fates["duplicate"] == EVENTS * COPIES - EVENTS
    assert fates["stored"] == EVENTS + 1


async def _repeat(urls: list[str], write_key: str, name: str, service: Service) -> int:
    """Every copy over plain sockets; how many got their 200. The drain dies when half of them have."""
    numbers = itertools.count()
    told = 0

    async def one_connection(turn: int) -> None:
        nonlocal told
        edge = urlsplit(urls[turn % len(urls)])
        reader, writer = await asyncio.open_connection(edge.hostname, edge.port)
        for number in numbers:
            if number >= EVENTS * COPIES:
                break
            key = f"{name}-{number % EVENTS}"
            body, header = f'{{"event_name":"{name}","copy":{number}}}', f"idempotency-key: {key}\r\n"
            if number % 2:
                body, header = f'{{"event_name":"{name}","event_id":"{key}"}}', ""
            writer.write(
                f"POST /post HTTP/1.1\r\nhost: x\r\nx-eventbunker-write-key: {write_key}\r\n{header}"
                f"content-length: {len(body)}\r\n\r\n{body}".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            answer = await reader.readexactly(length)
            assert head.startswith(b"HTTP/1.1 200"), answer
            told += 1
            if told == EVENTS * COPIES // 2:
                service.kill("drain")
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(one_connection(turn) for turn in range(CONNECTIONS)))
    return told
