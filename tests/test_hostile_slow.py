"""Slow senders, slow readers, and too many connections: each has a deadline or a bound, and costs only itself."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import h2.connection
import h2.events
import pytest
from hypercorn.asyncio import serve

from app.main import Draining
from app.settings import load
from tests.edge_process import Edge
from tests.engines import ENGINES, EdgeOf, Target
from tests.hostile import (
    BODY,
    CHUNKED,
    CLOSE,
    GET,
    Answer,
    assert_documented,
    chunked,
    connect,
    exchange,
    open_files,
    post,
    read_answer,
    send,
    unharmed,
)
from tests.service import Service
from tests.store_fixture import free_port
from tests.waiting import async_until, until
from workers import edge_connections, edge_http1, edge_limits, edge_protocols
from workers.edges import listen


@pytest.fixture(params=ENGINES)
def tight(request: pytest.FixtureRequest, service: Service, tmp_path: Path) -> Iterator[Target]:
    """Whoever takes longer than a second is too slow; five requests and forty connections at once."""
    server = f'engine = "{request.param}"\nread_timeout = 1\nmax_connections = 40\nshutdown_delay = 0\n'
    edge = Edge(tmp_path, service, f"{server}[limits]\nmax_concurrent_requests = 5\n", workers=1)
    try:
        edge.wait_ready()
        yield EdgeOf(service, edge)
    finally:
        edge.end()


@pytest.mark.service
def test_slow_senders_and_many_connections(tight: Target) -> None:
    """One edge, one attack after the other: starting one costs more than all of them."""
    key = tight.keys["write_key"]
    with unharmed(tight):
        for kind, data in {
            "head": b"POST /post HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 20,
            "body": post(key, b"", BODY * 5),
            "chunks": chunked(key, b"1\r\n \r\n" * 20, b""),
        }.items():
            answer, seconds = dribble(tight.url, data)
            assert answer is not None, kind
            assert_documented(answer)
            assert (answer.status, answer.json()["code"]) == (408, "request_timeout"), kind
            assert seconds < 5, kind

        for _ in range(20):  # four times as many as may be in flight
            head = (
                b"POST /post HTTP/1.1\r\nhost: x\r\nx-eventbunker-write-key: %s\r\n"
                % uuid.uuid4().hex.encode()
            )
            [answer] = exchange(
                tight.url, head + b"expect: 100-continue\r\n" + CHUNKED + b"\r\n" + b"1\r\n \r\n" * 50
            )
            assert answer.status == 401

        [pid] = tight.pids("edge")
        before = open_files(pid)
        with contextlib.ExitStack() as stack:
            idle = [stack.enter_context(connect(tight.url)) for _ in range(100)]
            # All of them: one that waits to be accepted would take another's place later.
            until(lambda: sum(map(is_cut, idle)) >= 60, 5, "the bound on connections")
            until(lambda: open_files(pid) <= before + 40, 5, "the end of those beyond it")
        # First all of it: whoever is served while others still end may have taken the only free place.
        until(lambda: open_files(pid) <= before, 10, "the end of the flood")
        until(lambda: is_served(tight.url), 10, "a place after the flood")


def is_served(url: str) -> bool:
    with contextlib.suppress(ConnectionResetError):
        return bool(exchange(url, GET + CLOSE + b"\r\n"))
    return False


def dribble(url: str, data: bytes) -> tuple[Answer | None, float]:
    """Send byte by byte until an answer comes; it, and how long it took."""
    began = time.monotonic()
    with connect(url, 0.02) as connection:
        for byte in data:
            send(connection, bytes([byte]))
            with contextlib.suppress(TimeoutError):
                if connection.recv(1, socket.MSG_PEEK):
                    break
        connection.settimeout(10)
        with connection.makefile("rb") as stream:
            return read_answer(stream), time.monotonic() - began


def is_cut(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


# --- slow readers: in this process, with a deadline that a test can wait for -----------------------


def as_an_edge(
    directory: Path, monkeypatch: pytest.MonkeyPatch, *, send_seconds: float
) -> edge_protocols.EdgeConfig:
    """Hypercorn in this process speaks as an edge's does; its settings."""
    for module in (edge_protocols, edge_limits, edge_connections):
        monkeypatch.setattr(module, "SEND_SECONDS", send_seconds)
    monkeypatch.setattr("hypercorn.asyncio.run.TCPServer", edge_connections.Connection)
    monkeypatch.setattr("hypercorn.protocol.H11Protocol", edge_http1.Http1)
    monkeypatch.setattr("hypercorn.protocol.H2Protocol", edge_protocols.Http2)
    (directory / "deploy.toml").write_text("")
    config = edge_protocols.EdgeConfig(load(directory / "deploy.toml", environ={}), Draining())
    config.errorlog = None
    return config


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        # HTTP/2: SETTINGS_INITIAL_WINDOW_SIZE = 0, then GET / in indexed headers
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\6\4\0\0\0\0\0\0\4\0\0\0\0"
        b"\0\0\6\1\5\0\0\0\1\x82\x84\x86\x41\x01x",
    ],
    ids=["http1", "http2"],
)
def test_an_answer_that_nobody_reads_is_given_up(
    request_: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = as_an_edge(tmp_path, monkeypatch, send_seconds=0.3)
    port = free_port()
    config.bind = [f"127.0.0.1:{port}"]
    config.graceful_timeout = 5.0
    in_flight: list[int] = []

    async def endless(scope: Any, receive: Any, send_: Any) -> None:
        if scope["type"] != "http":
            return
        in_flight.append(1)
        try:
            await send_({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(200):
                await send_({"type": "http.response.body", "body": bytes(1_000_000), "more_body": True})
        finally:
            in_flight.append(-1)

    async def run() -> None:
        stop = asyncio.Event()
        server = asyncio.create_task(serve(endless, config, shutdown_trigger=stop.wait))

        async def connected() -> asyncio.StreamWriter | None:
            try:
                return (await asyncio.open_connection("127.0.0.1", port, limit=1))[1]
            except ConnectionRefusedError:
                return None

        writer = await async_until(connected, 10, "the server")
        assert writer is not None
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(request_)
        ended = async_value(lambda: len(in_flight) == 2 and not edge_connections.Connection.open)
        await async_until(ended, 10, "the end of the answer and of its connection")
        writer.transport.abort()
        stop.set()
        await server

    asyncio.run(run())


STEADY_BYTES = 8_000_000


def take_http1(connection: socket.socket, pause: Callable[[int], object]) -> int:
    connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    got = 0
    while got < STEADY_BYTES and (piece := connection.recv(65_536)):
        got += len(piece)
        pause(len(piece))
    return got


def take_http2(connection: socket.socket, pause: Callable[[int], object]) -> int:
    """With the windows that a client has who says nothing of them: 64 KiB."""
    client = h2.connection.H2Connection()
    client.initiate_connection()
    client.send_headers(
        1, [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "x")], True
    )
    connection.sendall(client.data_to_send())
    got = 0
    while data := connection.recv(65_536):
        for event in client.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                got += len(event.data)
                client.acknowledge_received_data(event.flow_controlled_length, 1)
                pause(len(event.data))
            if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                return got
        connection.sendall(client.data_to_send())
    return got


@pytest.mark.parametrize("take", [take_http1, take_http2], ids=["http1", "http2"])
def test_a_client_that_takes_an_answer_steadily_gets_all_of_it(
    take: Callable[[socket.socket, Callable[[int], object]], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long it takes in all, and no more of it is in hand than a piece or two."""
    config = as_an_edge(tmp_path, monkeypatch, send_seconds=0.7)
    sent = taken = ahead = 0

    async def answer(scope: Any, receive: Any, send_: Any) -> None:
        nonlocal sent, ahead
        if scope["type"] != "http":
            return
        await send_({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(STEADY_BYTES // 40_000):
            await send_({"type": "http.response.body", "body": bytes(40_000), "more_body": True})
            sent += 40_000
            ahead = max(ahead, sent - taken)
        await send_({"type": "http.response.body", "body": b"", "more_body": False})

    def client(port: int) -> int:
        nonlocal taken
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            connection.settimeout(20)
            connection.connect(("127.0.0.1", port))

            def pause(size: int) -> None:
                nonlocal taken
                taken += size
                time.sleep(size / 1_600_000)  # the pace of the client, which is what this is about

            return take(connection, pause)

    async def run() -> int:
        listener = listen("127.0.0.1", 0, 10, how="-")
        port = listener.getsockname()[1]
        config.bind = [f"fd://{listener.detach()}"]  # Hypercorn closes it
        stop = asyncio.Event()
        server = asyncio.create_task(serve(answer, config, shutdown_trigger=stop.wait))
        got = await asyncio.to_thread(client, port)
        stop.set()
        await server
        return got

    assert asyncio.run(run()) >= STEADY_BYTES
    assert ahead < 2_000_000


def async_value(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool | None]]:
    async def value() -> bool | None:
        return condition()

    return value
