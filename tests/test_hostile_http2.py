"""Hostile HTTP/2 (by prior knowledge, as a proxy would speak it): a bad stream costs neither its neighbours nor us."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import h2.connection
import h2.events
import h2.settings
import pytest

from tests.client import Client
from tests.hostile import SECONDS, connect, send, unharmed
from tests.service import Service

pytestmark = pytest.mark.service


@pytest.fixture(scope="module", autouse=True)
def _unharmed(service: Service) -> Iterator[None]:
    with unharmed(service):
        yield


class Peer:
    """A client that sends what it is told, also what the protocol forbids."""

    def __init__(self, url: str, **settings: int) -> None:
        self.socket = connect(url)
        config = h2.config.H2Configuration(
            header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = h2.connection.H2Connection(config)
        codes: dict[h2.settings.SettingCodes | int, int] = {
            h2.settings.SettingCodes[name]: value for name, value in settings.items()
        }
        self.h2.local_settings.update(codes)
        self.h2.initiate_connection()
        self.seen: list[Any] = []
        self.is_over = False
        self.flush()

    def flush(self) -> None:
        send(self.socket, self.h2.data_to_send())

    def request(
        self, path: str | bytes = "/livez", method: str = "GET", *, ends: bool = True, **headers: str
    ) -> int:
        stream = self.h2.get_next_available_stream_id()
        head: list[tuple[str, str | bytes]] = [(":method", method), (":authority", "x")]
        if method != "CONNECT":
            head += [(":path", path), (":scheme", "http")]
        named = [(name.replace("_", "-"), value) for name, value in headers.items()]
        self.h2.send_headers(stream, [*head, *named], end_stream=ends)
        self.flush()
        return stream

    def until(self, kind: type, stream: int | None = None) -> Any:
        """The first event of `kind` (on `stream`), seen before or read now; None when the connection is over first."""
        while True:
            for event in self.seen:
                if isinstance(event, kind) and stream in (None, getattr(event, "stream_id", None)):
                    return event
            if self.is_over:
                return None
            self.read()

    def read(self) -> None:
        try:
            data = self.socket.recv(65_536)
        except ConnectionResetError:
            data = b""
        self.is_over = not data
        self.seen += self.h2.receive_data(data)
        self.flush()

    def status(self, stream: int) -> int:
        event = self.until(h2.events.ResponseReceived, stream)
        assert event is not None, (
            f"the connection ended before the answer on stream {stream}: {self.seen[-5:]}"
        )
        return int(dict(event.headers)[":status"])

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def test_a_body_that_comes_after_its_answer_costs_only_itself(service: Service, client: Client) -> None:
    with Peer(service.url) as peer:
        refused = peer.request("/post", "POST", ends=False, x_eventbunker_write_key="eb_w_nonsense")
        assert peer.status(refused) == 401
        peer.until(h2.events.StreamEnded, refused)
        for _ in range(20):
            peer.h2.send_data(refused, b"x" * 1000)
            peer.flush()
        peer.h2.end_stream(refused)
        peer.flush()
        assert peer.status(peer.request()) == 200
        kept = peer.request("/post", "POST", ends=False, x_eventbunker_write_key=client.keys["write_key"])
        for byte in b'{"event_name":"e"}':
            peer.h2.send_data(kept, bytes([byte]))
        peer.h2.end_stream(kept)
        peer.flush()
        assert peer.status(kept) == 200


def test_a_length_that_is_not_kept(service: Service, client: Client) -> None:
    with Peer(service.url) as peer:
        peer.h2.config.validate_outbound_headers = False
        stream = peer.request(
            "/post", "POST", ends=False, x_eventbunker_write_key=client.keys["write_key"], content_length="5"
        )
        peer.h2.send_data(stream, b'{"event_name":"e"}', end_stream=True)
        peer.flush()
        assert peer.until(h2.events.StreamReset, stream) or peer.until(h2.events.ConnectionTerminated)


@pytest.mark.parametrize(
    ("method", "path"), [("CONNECT", ""), ("GET", b"/\xff\xfe"), ("GET", "livez"), ("G\u00c9T", "/livez")]
)
def test_a_request_that_cannot_be_read_is_reset(service: Service, method: str, path: str | bytes) -> None:
    with Peer(service.url) as peer:
        bad = peer.request(path, method)
        assert peer.until(h2.events.StreamReset, bad)
        assert peer.status(peer.request()) == 200


def test_floods_of_frames(service: Service) -> None:
    with Peer(service.url) as peer:
        for stream in range(1, 6001, 2):  # more than Hypercorn's tree of priorities takes
            send(peer.socket, b"\0\0\5\2\0" + stream.to_bytes(4, "big") + b"\0\0\0\0\x10")
        for _ in range(2000):
            peer.h2.ping(b"12345678")
        for _ in range(500):
            peer.h2.update_settings({h2.settings.SettingCodes.MAX_FRAME_SIZE: 16_384})
        peer.flush()
        assert peer.status(peer.request()) == 200


def test_rapid_resets(service: Service) -> None:
    with Peer(service.url) as peer:
        for _ in range(3000):
            stream = peer.request("/post", "POST", ends=False, x_eventbunker_write_key="eb_w_nonsense")
            peer.h2.reset_stream(stream)
        peer.flush()
        assert peer.status(peer.request()) == 200


def test_more_streams_than_allowed(service: Service) -> None:
    with Peer(service.url) as peer:
        peer.until(h2.events.RemoteSettingsChanged)
        peer.h2.remote_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = 1000
        peer.h2.remote_settings.acknowledge()
        for _ in range(300):
            peer.request("/post", "POST", ends=False, x_eventbunker_write_key="eb_w_nonsense")
        peer.until(h2.events.ConnectionTerminated)
        peer.until(type(None))  # until it is over
        assert peer.is_over


def test_a_header_bomb(service: Service) -> None:
    """One long header in the table, then named ten thousand times by one byte each."""
    with Peer(service.url) as peer:
        long = b"\x40\x01a" + b"\x7f\xe1\x1e" + b"b" * (127 + 0x61 + 0x1E * 128)  # added to the table
        block = long + b"\xbe" * 10_000
        frame = len(block).to_bytes(3, "big") + b"\1\5" + (1).to_bytes(4, "big") + block
        send(peer.socket, frame)
        peer.until(type(None))
        assert peer.is_over


@pytest.mark.parametrize(
    "data",
    ids=lambda data: data[:9].hex(),
    argvalues=[
        b"\xff" * 100 + b"x" * 20_000,  # a frame of 16 MiB: not waited for
        (b"\0\x40\0\1\0\0\0\0\1" + b"\x82" * 0x4000)  # HEADERS, and CONTINUATIONs without end
        + (b"\0\x40\0\x09\0\0\0\0\1" + b"\x82" * 0x4000) * 10,
        b"\0\0\0\0\0\0\0\0\1",  # DATA on an idle stream
        b"\0\0\4\x08\0\0\0\0\0\0\0\0\0",  # a window that grows by nothing
        b"\0\x40\x01\0\0\0\0\0\1" + b"x" * 0x4001,  # larger than a frame may be
        b"\0\0\4\1\4\0\0\0\1\xff\xff\xff\xff",  # no HPACK
        b"\0\0\6\4\0\0\0\0\0\0\4\xff\xff\xff\xff",  # a window beyond the largest
        b"\0\0\1\1\0\0\0\0\1\x82" + b"\0\0\0\x09\0\0\0\0\1" * 1000,  # the same with empty ones
    ],
)
def test_what_is_no_http2_ends_the_connection(service: Service, data: bytes) -> None:
    with Peer(service.url) as peer:
        peer.until(h2.events.RemoteSettingsChanged)
        send(peer.socket, data)
        peer.until(type(None))
        assert peer.is_over


def test_half_a_preface_waits_for_the_other_half(service: Service) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    with connect(service.url) as connection:
        connection.sendall(preface[:10])
        connection.sendall(preface[10:20])
        connection.sendall(preface[20:] + b"\0\0\0\4\0\0\0\0\0")
        connection.settimeout(SECONDS)
        assert connection.recv(9, socket.MSG_WAITALL)[3] == 4  # SETTINGS
