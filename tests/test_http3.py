"""HTTP/3 with a real client: events through to the stream, the limits of the other protocols, and abuse."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.main import Draining
from app.settings import load
from app.tail import OF_ONE_KEY
from tests.certificate import tls
from tests.client import Client, equals, unique
from tests.edge_process import Edge
from tests.hostile import MAX_GROWTH_BYTES, resident_bytes
from tests.http3 import Answer, Http3Client, http3
from tests.service import Service
from tests.store_fixture import free_port
from tests.waiting import async_until, until
from workers import edge_hypercorn, edge_quic, edge_quic_stream
from workers.edges import edge_sockets

pytestmark = pytest.mark.service
REJECTED, EXCESSIVE_LOAD, REQUEST_CANCELLED, MESSAGE_ERROR = 0x10B, 0x107, 0x10C, 0x10E


class QuicEdge(Edge):
    """An edge with TLS and HTTP/3."""

    def __init__(self, directory: Path, service: Service, certificate: Path, server: str = "") -> None:
        self.quic_port = free_port()
        self.certificate = certificate
        own = f"quic_port = {self.quic_port}\nshutdown_delay = 0\n{server}{tls(certificate)}"
        super().__init__(directory, service, own, workers=1)
        self.url = self.url.replace("http://", "https://")
        until(lambda: '"serving"' in self.log.read_text(), 30, "the edge")

    def ask(self, test: Callable[[Http3Client], Awaitable[None]]) -> None:
        """Run `test` on a new connection."""

        async def bounded() -> None:
            async with asyncio.timeout(40), http3(self.quic_port, self.certificate) as client:
                await test(client)

        asyncio.run(bounded())


@pytest.fixture(scope="module")
def edge(service: Service, certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuicEdge]:
    service.wait_ready()
    one = QuicEdge(tmp_path_factory.mktemp("http3"), service, certificate, "read_timeout = 1\n")
    [pid] = one.pids()
    memory = resident_bytes(pid)
    try:
        yield one
        assert one.pids() == [pid]
        assert resident_bytes(pid) - memory < MAX_GROWTH_BYTES
        assert '"level":"error"' not in one.log.read_text()
        one.process.terminate()
        assert one.process.wait(10) == 0
    finally:
        one.end()


@pytest.fixture(scope="module")
def project(client: Client) -> Client:
    return client.new_project()


def assert_documented(answer: Answer, status: int) -> None:
    assert answer.status == status, answer
    assert answer.headers["access-control-allow-origin"] == "*"
    assert re.fullmatch(r"[0-9a-f]{24}", answer.headers["x-request-id"])
    assert "server" not in answer.headers
    if status >= 400:
        assert set(answer.json()) == {"error", "code", "detail", "errors", "request_id"}


def test_events_reach_the_stream_and_queries(edge: QuicEdge, project: Client) -> None:
    name, key = unique("h3"), project.keys["write_key"]
    body = json.dumps({"event_name": name}).encode()
    large = json.dumps({"event_name": name, **{f"f{number}": "x" * 8000 for number in range(7)}}).encode()

    async def test(client: Http3Client) -> None:
        for _ in range(3):
            assert_documented(await client.ask("POST", "/post", large, x_eventbunker_write_key=key), 200)
        many = [client.ask("POST", "/post", body, x_eventbunker_write_key=key) for _ in range(97)]
        assert {answer.status for answer in await asyncio.gather(*many)} == {200}
        options = await client.ask("OPTIONS", "/post", access_control_request_headers="x-a")
        assert (options.status, options.headers["access-control-allow-headers"]) == (204, "x-a")

    edge.ask(test)
    until(lambda: project.count(name) == 100, 10, "the events in a query")


def test_an_export_is_the_same_and_comes_to_its_end(edge: QuicEdge, project: Client) -> None:
    """More than a client lets come at once; and half of it taken is no harm."""
    name = unique("h3")
    for number in range(60):
        project.track(event_name=name, n=number, **{f"f{part}": os.urandom(3000).hex() for part in range(9)})
    until(lambda: project.count(name) == 60, 10, "the events in a query")
    wanted = {"filters": [equals("event_name", name)], "time_period": "minus_60_minutes", "format": "ndjson"}
    key = {"x-eventbunker-query-key": project.keys["query_key"]}
    plain = project.http.post("/v1/export", json=wanted, headers=key).content
    assert len(plain) > 3_000_000

    async def test(client: Http3Client) -> None:
        body, query_key = json.dumps(wanted).encode(), project.keys["query_key"]
        left = client.begin("POST", "/v1/export", x_eventbunker_query_key=query_key)
        client.send(left, body)
        await until_shown(client, left, name)
        client.quic.stop_stream(left, REQUEST_CANCELLED)
        client.transmit()
        whole = await client.ask("POST", "/v1/export", body, x_eventbunker_query_key=query_key)
        assert (whole.status, whole.reset, whole.body == plain) == (200, None, True)

    edge.ask(test)


def test_a_tail_shows_events_as_they_come_and_ends_with_its_reader(edge: QuicEdge, project: Client) -> None:
    name, key = unique("h3"), project.keys["query_key"]

    async def test(client: Http3Client) -> None:
        for number in range(OF_ONE_KEY + 1):  # each holds a place until its reader is gone
            stream = client.begin(
                "GET", f"/v1/tail?event_name={name}", ends=True, x_eventbunker_query_key=key
            )
            await until_shown(client, stream, "event: open")
            assert client.answers[stream].headers["content-type"].startswith("text/event-stream")
            body = json.dumps({"event_name": name, "number": f"no {number}"}).encode()
            await client.ask("POST", "/post", body, x_eventbunker_write_key=project.keys["write_key"])
            await until_shown(client, stream, f"no {number}")
            client.quic.stop_stream(stream, REQUEST_CANCELLED)
            client.transmit()

    edge.ask(test)


async def until_shown(client: Http3Client, stream: int, text: str) -> None:
    async def is_shown() -> bool:
        return text.encode() in client.answers[stream].body

    await async_until(is_shown, 10, f"{text!r} on stream {stream}")


def test_refusals_are_those_of_every_protocol(edge: QuicEdge, project: Client) -> None:
    key = project.keys["write_key"]

    async def test(client: Http3Client) -> None:
        bad = await client.ask("POST", "/post", b'{"event_name":"e"}', x_eventbunker_write_key="eb_w_bad")
        assert_documented(bad, 401)
        for size in (70_000, 3_000_000):
            large = await client.ask("POST", "/post", b"x" * size, x_eventbunker_write_key=key)
            assert_documented(large, 413)
        assert_documented(await client.ask("GET", "/nowhere"), 404)
        assert_documented(await client.ask("GET", "/post"), 405)
        too_many = await client.ask("GET", "/livez", None, **{f"a{number}": "b" for number in range(101)})
        assert_documented(too_many, 431)
        slow = client.begin("POST", "/post", x_eventbunker_write_key=key)
        client.send(slow, b'{"event', ends=False)
        assert_documented(await client.answer(slow), 408)
        assert_documented(await client.ask("GET", "/livez"), 200)

    edge.ask(test)


def test_other_protocols_name_it(edge: QuicEdge) -> None:
    context = ssl.create_default_context(cafile=str(edge.certificate))
    answer = httpx.get(f"{edge.url}/livez", verify=context, timeout=10)
    assert answer.headers["alt-svc"] == f'h3=":{edge.quic_port}"; ma=3600'


def test_a_bad_stream_costs_only_itself(edge: QuicEdge, project: Client) -> None:
    async def test(client: Http3Client) -> None:
        for method, path in (
            ("CONNECT", "/"),
            ("GET", "livez"),
            ("GET", "/\udcff".encode("utf-8", "surrogateescape").decode("latin-1")),
        ):
            assert (await client.answer(client.begin(method, path, ends=True))).reset == MESSAGE_ERROR
        left = client.begin("POST", "/post", x_eventbunker_write_key=project.keys["write_key"])
        client.quic.reset_stream(left, 0)
        client.transmit()
        slow = client.open()
        client.quic.send_stream_data(slow, b"\x01\x44")  # a HEADERS frame that does not come
        client.transmit()
        assert (await client.answer(slow)).reset is not None
        for _ in range(5):
            for _ in range(60):
                stream_id = client.begin("POST", "/post", x_eventbunker_write_key="eb_w_bad")
                client.quic.reset_stream(stream_id, 0)
                client.transmit()
            assert_documented(await client.ask("GET", "/livez"), 200)

    edge.ask(test)


def test_more_streams_than_allowed_end_the_connection(edge: QuicEdge) -> None:
    async def test(client: Http3Client) -> None:
        assert_documented(await client.ask("GET", "/livez"), 200)
        client.quic._remote_max_streams_bidi = 10_000
        for _ in range(300):
            client.begin("POST", "/post", x_eventbunker_write_key="eb_w_bad")
        assert "streams" in (await client.until_terminated()).reason_phrase

    edge.ask(test)


def test_a_body_that_is_not_wanted_is_not_collected(edge: QuicEdge, project: Client) -> None:
    """Many streams that send on after their refusal; the fixture looks at the edge's memory."""

    async def test(client: Http3Client) -> None:
        streams = [client.begin("POST", "/post", x_eventbunker_write_key="eb_w_bad") for _ in range(50)]
        for stream in streams:
            client.send(stream, b"x" * 2_000_000, ends=False)
        for stream in streams:
            assert_documented(await client.answer(stream), 401)
        assert_documented(await client.ask("GET", "/livez"), 200)

    edge.ask(test)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x01\x80\x10\x00\x00" + b"x" * 50_000, id="a head of a megabyte"),
        pytest.param(b"\x04\x00", id="settings on a request"),
        pytest.param(b"\x01\x03\xff\xff\xff", id="no QPACK"),
        pytest.param(b"\x01\x40\x0a\x02\x80" + b"\x80" * 8, id="a dynamic table that was not offered"),
    ],
)
def test_what_is_no_http3_ends_its_connection(edge: QuicEdge, data: bytes) -> None:
    async def test(client: Http3Client) -> None:
        assert_documented(await client.ask("GET", "/livez"), 200)
        client.quic.send_stream_data(client.open(), data)
        client.transmit()
        assert (await client.until_terminated()).error_code >= 0x100

    edge.ask(test)


@pytest.mark.parametrize("size", [40_000, 10_000_000], ids=["small", "endless"])
def test_an_answer_that_nobody_takes_is_given_up(
    size: int, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_quic, "SEND_SECONDS", 0.3)
    monkeypatch.setattr(edge_quic_stream, "SEND_SECONDS", 0.3)
    (tmp_path / "deploy.toml").write_text(f"[server]\nquic_port = {free_port()}\n{tls(certificate)}")
    settings = load(tmp_path / "deploy.toml", environ={})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": bytes(size)})

    async def test() -> None:
        finish = asyncio.Event()
        with edge_sockets(settings, "127.0.0.1", 0, how="") as sockets:
            descriptors = tuple(os.dup(one.fileno()) for one in sockets)
            serving = asyncio.create_task(
                edge_hypercorn.serve(app, settings, descriptors, Draining(), finish)
            )
            async with http3(settings.server.quic_port, certificate, max_stream_data=10_000) as client:
                monkeypatch.setattr(client.quic, "_write_stream_limits", lambda **_: None)
                stream = client.begin("GET", "/", ends=True)
                answer = await client.answer(stream)
                assert answer.reset is not None
                assert len(answer.body) < 10_000
            finish.set()
            await serving

    asyncio.run(asyncio.wait_for(test(), 20))


def test_nobody_is_answered_more_than_was_sent(edge: QuicEdge) -> None:
    """Datagrams whose sender may be forged: small ones get nothing, a first packet gets a Retry that is smaller."""
    rng = os.urandom
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", edge.quic_port))
        sender.settimeout(0.2)
        for data in (
            b"",
            b"\xc0",
            b"\xff" * 40,
            b"\xc0\xfa\xfa\xfa\xfa\x08" + rng(30),
            rng(100),
            b"\x40" + rng(1300),
        ):
            sender.send(data)
        with pytest.raises(TimeoutError):
            sender.recv(2000)
        initial = b"\xc0\x00\x00\x00\x01\x08" + rng(8) + b"\x08" + rng(8) + b"\x00\x44\xd0" + rng(1232)
        sender.send(initial)
        retry = sender.recv(2000)
        assert (retry[0] & 0xF0, len(retry) < len(initial)) == (0xF0, True)
        unknown = initial[:1] + b"\xfa\xfa\xfa\xfa" + initial[5:]
        sender.send(unknown)
        assert len(sender.recv(2000)) < 100  # the versions that we know

    async def test(client: Http3Client) -> None:
        assert_documented(await client.ask("GET", "/livez"), 200)

    edge.ask(test)


def test_restart_and_leaving(service: Service, certificate: Path, tmp_path: Path, project: Client) -> None:
    edge = QuicEdge(tmp_path, service, certificate)
    body = b'{"event_name":"leaving"}'

    async def test(client: Http3Client) -> None:
        assert_documented(await client.ask("GET", "/livez"), 200)
        slow = client.begin("POST", "/post", x_eventbunker_write_key=project.keys["write_key"])
        client.send(slow, body[:5], ends=False)
        assert_documented(await client.ask("GET", "/livez"), 200)
        edge.process.terminate()
        late = await client.ask("GET", "/livez")
        while late.status == 200:  # until it has heard
            late = await client.ask("GET", "/livez")
        assert late.reset == REJECTED
        client.send(slow, body[5:])
        assert_documented(await client.answer(slow), 200)
        assert (await client.until_terminated()).error_code == 0x100

    try:
        [pid] = edge.pids()
        os.kill(pid, signal.SIGKILL)
        until(lambda: edge.pids() not in ([], [pid]), 20, "a new edge")
        edge.ask(test)
        assert edge.process.wait(10) == 0, edge.log.read_text()
    finally:
        edge.end()
