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
from workers.edge_connections import Connection
from workers.edges import listen

BODY = bytes(200_000)
SECONDS = 20.0
REST_SECONDS, BEAT_SECONDS = 0.3, 0.1


class Server:
    """Answers `/` at once, `/wait` when `go_on` is called, `/beats` until then."""

    def __init__(self, config: edge_protocols.EdgeConfig) -> None:
        self.config = config
        self._loop = asyncio.new_event_loop()
        self._may_go_on, self._stop, self.has_come = asyncio.Event(), asyncio.Event(), asyncio.Event()
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
        self._loop.run_until_complete(serve(self._answer, self.config, shutdown_trigger=self._stop.wait))

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.has_come.set()
        if scope["path"] == "/wait":
            await self._may_go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while scope["path"] == "/beats" and not self._may_go_on.is_set():
            await send({"type": "http.response.body", "body": b".", "more_body": True})
            await asyncio.sleep(BEAT_SECONDS)
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


def test_whoever_waits_for_an_answer_need_not_say_anything(server: Server) -> None:
    """A tail is watched for hours, and only the edge says something."""
    server.config.keep_alive_timeout = server.config.read_timeout = REST_SECONDS  # type: ignore[assignment]
    with Peer(server.url) as peer:
        beats = peer.request("/beats")
        while beats_of(peer, beats) < 4 * REST_SECONDS / BEAT_SECONDS:
            assert not peer.is_over
            peer.read()
        server.go_on()
        assert peer.until(h2.events.StreamEnded, beats)


def beats_of(peer: Peer, stream: int) -> int:
    data = [event for event in peer.seen if isinstance(event, h2.events.DataReceived)]
    return sum(len(event.data) for event in data if event.stream_id == stream)


@pytest.mark.parametrize("path", ["/", "nowhere"], ids=["answered", "refused"])
def test_a_connection_that_only_pings_ends(server: Server, path: str) -> None:
    server.config.keep_alive_timeout = REST_SECONDS
    with Peer(server.url) as peer:
        stream = peer.request(path)
        assert peer.until(h2.events.StreamReset if path == "nowhere" else h2.events.StreamEnded, stream)

        def is_told() -> bool:
            peer.h2.ping(b"12345678")
            peer.flush()
            peer.read()
            return any(isinstance(event, h2.events.ConnectionTerminated) for event in peer.seen)

        until(is_told, SECONDS, "the end of the connection")


def test_a_request_that_comes_as_its_connection_ends_is_answered(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.config.keep_alive_timeout = REST_SECONDS
    end = Connection._initiate_server_close
    steps: list[str] = []

    async def end_once_it_has_come(self: Connection) -> None:
        steps.append("about to end")
        await server.has_come.wait()
        await end(self)
        steps.append("ended")

    monkeypatch.setattr(Connection, "_initiate_server_close", end_once_it_has_come)
    with Peer(server.url) as peer:
        until(lambda: bool(steps), SECONDS, "the end of the rest")
        slow = ask_slow(peer)
        until(lambda: "ended" in steps, SECONDS, "the end that is none")
        server.go_on()
        assert received(peer, slow) == len(BODY)


def test_a_connection_without_requests_is_told_of_its_end(server: Server) -> None:
    with Peer(server.url) as peer:
        assert received(peer, last := peer.request("/")) == 2
        server.stop()
        assert peer.until(h2.events.ConnectionTerminated).last_stream_id == last
