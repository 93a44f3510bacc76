"""How a connection over HTTP/2 ends that we end: nothing under way is cut, and what was not begun may be repeated."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h2.errors
import h2.events
import pytest
from hypercorn.asyncio import serve

from tests.test_hostile_http2 import Peer
from tests.test_hostile_slow import as_an_edge
from tests.waiting import until
from workers import edge_protocols
from workers.edges import listen

BODY = bytes(200_000)
SECONDS = 20.0


class Server:
    """Answers `/` at once, and `/wait` when `go_on` is called."""

    def __init__(self, config: edge_protocols.EdgeConfig) -> None:
        self._config = config
        self._loop = asyncio.new_event_loop()
        self._may_go_on, self._stop = asyncio.Event(), asyncio.Event()
        listener = listen("127.0.0.1", 0, 10, how="-")
        self.url = "http://{}:{}".format(*listener.getsockname())
        config.bind = [f"fd://{listener.detach()}"]  # Hypercorn closes it
        self._thread = threading.Thread(target=self._run)

    def go_on(self) -> None:
        self._loop.call_soon_threadsafe(self._may_go_on.set)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    @contextmanager
    def running(self) -> Iterator[Server]:
        self._thread.start()
        try:
            yield self
        finally:
            self.go_on()
            self.stop()
            self._thread.join(SECONDS)
            self._loop.close()

    def _run(self) -> None:
        self._loop.run_until_complete(serve(self._answer, self._config, shutdown_trigger=self._stop.wait))

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/wait":
            await self._may_go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": BODY if scope["path"] == "/wait" else b"ok"})


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    config = as_an_edge(tmp_path, monkeypatch, send_seconds=SECONDS)
    config.graceful_timeout = SECONDS
    with Server(config).running() as running:
        yield running


def ask_slow(peer: Peer) -> int:
    """With windows into which all of the answer fits."""
    stream = peer.request("/wait")
    peer.h2.increment_flow_control_window(len(BODY))
    peer.h2.increment_flow_control_window(len(BODY), stream)
    peer.flush()
    return stream


def received(peer: Peer, stream: int) -> int:
    """Bytes of an answer that came to its end."""
    assert peer.until(h2.events.StreamEnded, stream)
    data = [event for event in peer.seen if isinstance(event, h2.events.DataReceived)]
    return sum(len(event.data) for event in data if event.stream_id == stream)


def test_the_last_request_of_a_connection_costs_none_that_is_under_way(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_protocols, "REQUESTS_PER_CONNECTION", 3)
    monkeypatch.setattr(edge_protocols, "WORN_SECONDS", 0.1)
    with Peer(server.url) as peer:
        slow = ask_slow(peer)
        for _ in range(5):
            assert received(peer, last := peer.request("/")) == 2
        server.go_on()
        assert received(peer, slow) == len(BODY)
        told = peer.until(h2.events.ConnectionTerminated)
        assert (told.error_code, told.last_stream_id) == (h2.errors.ErrorCodes.NO_ERROR, last)
    with Peer(server.url) as peer:
        assert received(peer, peer.request("/")) == 2


def test_what_comes_while_an_edge_ends_may_be_repeated_elsewhere(server: Server) -> None:
    with Peer(server.url) as peer:
        slow = ask_slow(peer)
        assert received(peer, peer.request("/")) == 2
        server.stop()

        reset = until(lambda: refusal(peer), SECONDS, "the end of new requests")
        assert reset is not None
        assert reset.error_code == h2.errors.ErrorCodes.REFUSED_STREAM
        server.go_on()
        assert received(peer, slow) == len(BODY)
        assert peer.until(h2.events.ConnectionTerminated).error_code == h2.errors.ErrorCodes.NO_ERROR


def refusal(peer: Peer) -> h2.events.StreamReset | None:
    """Of a new request; None where that is answered."""
    stream = peer.request("/")
    while True:
        for event in peer.seen:
            if isinstance(event, h2.events.StreamReset) and event.stream_id == stream:
                return event
            if isinstance(event, h2.events.StreamEnded) and event.stream_id == stream:
                return None
        assert not peer.is_over
        peer.read()


def test_a_connection_without_requests_is_told_of_its_end(server: Server) -> None:
    with Peer(server.url) as peer:
        assert received(peer, last := peer.request("/")) == 2
        server.stop()
        assert peer.until(h2.events.ConnectionTerminated).last_stream_id == last
