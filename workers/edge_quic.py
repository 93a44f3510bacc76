"""HTTP/3 beside Hypercorn: QUIC connections on one UDP socket, bounded against whoever is at the other end.

Hypercorn's own server for QUIC waits for the app of one stream before it reads the next packet of anybody,
and one odd stream ends it. So `workers.edge_hypercorn` puts `Http3` in its place; the protocol is aioquic's.
What is held here, beside what `workers.edge_quic_stream` holds for each request:

* a client proves its address by a round trip (Retry) before anything is kept for it or sent to it;
* connections count together with those over TCP; a handshake, the head of a request and silence have
  deadlines;
* no head, and no frame that is not the body of a request, is larger than a head may be; no dynamic table, so
  that no small head unpacks to a large one;
* what was received and not read is bounded for each connection, whatever its windows were;
* leaving: no new connections and requests, and the end of a connection when its last answer was sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pylsqpack
import structlog
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection, Setting
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic import events
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE, QuicConfiguration
from aioquic.quic.connection import Limit, QuicConnection

from workers.edge_connections import Connection
from workers.edge_limits import MAX_HEAD_BYTES, SEND_SECONDS
from workers.edge_protocols import EdgeConfig
from workers.edge_quic_stream import Stream

WINDOW_BYTES = 1024 * 1024  # of a connection: what may be under way
STREAM_WINDOW_BYTES = 256 * 1024
KEPT_BYTES = 4096  # of an answer; a client may leave so much of each untaken
UNREAD_BYTES = 2 * WINDOW_BYTES  # of a connection: received, and not taken by the app yet

log = structlog.get_logger()


class Http3(QuicServer):
    """In the place of Hypercorn's UDPServer, with its constructor and its `run`."""

    def __init__(self, app: Any, loop: Any, config: EdgeConfig, context: Any, state: dict[str, Any]) -> None:
        quic = QuicConfiguration(
            alpn_protocols=list(H3_ALPN),
            is_client=False,
            idle_timeout=config.keep_alive_timeout,
            max_data=WINDOW_BYTES,
            max_stream_data=STREAM_WINDOW_BYTES,
        )
        quic.load_cert_chain(certfile=str(config.certfile), keyfile=str(config.keyfile))
        super().__init__(
            configuration=quic, create_protocol=partial(Http3Connection, server=self), retry=True
        )
        self.app, self.config, self.state = app, config, state
        self.open: set[Http3Connection] = set()
        self.is_finishing = False
        self.changed = asyncio.Event()
        self._context = context

    async def run(self) -> None:
        """Until Hypercorn ends, and what is in flight then."""
        try:
            await self._context.terminated.wait()
            self.is_finishing = True
            while True:
                self.changed.clear()
                for connection in list(self.open):
                    connection.end_if_idle()
                if not any(connection.streams for connection in self.open):
                    return
                await self.changed.wait()
        finally:
            self.close()

    def datagram_received(self, data: bytes | str, addr: Any) -> None:
        data = cast(bytes, data)
        destination = data[6 : 6 + data[5]] if len(data) > 5 and data[0] & 0x80 else data[1:9]
        if destination not in self._protocols and (
            len(data) < SMALLEST_MAX_DATAGRAM_SIZE
            or self.is_finishing
            or len(self.open) + Connection.open >= self.config.max_connections
        ):
            return  # an answer would be larger than the question, or a connection too many
        try:
            super().datagram_received(data, addr)
        except Exception as error:
            log.warning("a QUIC packet was not understood", error=repr(error)[:200])


class _Window(Limit):
    """How much a connection may send. aioquic doubles it again and again; here it moves on instead."""

    @property
    def value(self) -> int:
        return self._value

    @value.setter
    def value(self, value: int) -> None:
        self._value = min(value, getattr(self, "used", 0) + WINDOW_BYTES)


class _H3(H3Connection):
    """HTTP/3 without a dynamic table for what the client sends."""

    def __init__(self, quic: QuicConnection) -> None:
        super().__init__(quic)
        self._decoder = pylsqpack.Decoder(0, 0)

    def _get_local_settings(self) -> dict[int, int]:
        return {
            Setting.QPACK_MAX_TABLE_CAPACITY: 0,
            Setting.QPACK_BLOCKED_STREAMS: 0,
            Setting.MAX_FIELD_SECTION_SIZE: MAX_HEAD_BYTES,
        }

    def waiting_bytes(self, stream_id: int) -> int:
        """Of a frame that is not complete."""
        stream = self._stream.get(stream_id)
        return len(stream.buffer) if stream is not None else 0


class Http3Connection(QuicConnectionProtocol):
    """One client."""

    def __init__(self, quic: QuicConnection, stream_handler: object = None, *, server: Http3) -> None:
        super().__init__(quic)
        self.server = server
        self.streams: dict[int, Stream] = {}
        self.unread_bytes = 0
        self.moved = asyncio.Event()  # something was sent or acknowledged
        self.client: tuple[str, int] | None = None
        self._h3: _H3 | None = None
        self._timers: dict[int, asyncio.TimerHandle] = {}  # of heads that have begun; -1: of the handshake
        limit = quic._local_max_data
        quic._local_max_data = _Window(limit.frame_type, limit.name, limit.value)

    @property
    def quic(self) -> QuicConnection:
        """aioquic's half."""
        return self._quic

    @property
    def h3(self) -> _H3:
        """HTTP/3 on it; only once it was negotiated."""
        if self._h3 is None:
            raise RuntimeError("no HTTP/3 yet")
        return self._h3

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.server.open.add(self)
        self._timers[-1] = self._loop.call_later(
            self.server.config.head_seconds, self.close, ErrorCode.H3_NO_ERROR
        )

    def datagram_received(self, data: bytes | str, addr: Any) -> None:
        self.client = (str(addr[0]), int(addr[1]))
        super().datagram_received(data, addr)

    def transmit(self) -> None:
        super().transmit()
        self.moved.set()

    def quic_event_received(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.ConnectionTerminated):
            self._ended()
        elif isinstance(event, events.HandshakeCompleted):
            self._cancel(-1)
        elif isinstance(event, events.ProtocolNegotiated):
            self._h3 = _H3(self._quic)
        elif isinstance(event, events.StreamReset | events.StopSendingReceived):
            self._cancel(event.stream_id)
            if not self._has_ended(event.stream_id):  # or it would count as open for ever
                self.reset(event.stream_id, ErrorCode.H3_REQUEST_CANCELLED)
        if self._h3 is None:
            return
        for happened in self._h3.handle_event(event):
            self._handle(happened)
        if isinstance(event, events.StreamDataReceived):
            self._watch_head(event.stream_id)

    def _handle(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived):
            if event.stream_id in self.streams:  # trailers
                self.streams[event.stream_id].feed(b"", event.stream_ended)
                return
            self._cancel(event.stream_id)
            if self.server.is_finishing:
                self.reset(event.stream_id, ErrorCode.H3_REQUEST_REJECTED)
            else:
                Stream(self, event.stream_id, event.headers, is_complete=event.stream_ended).start()
        elif isinstance(event, DataReceived) and (stream := self.streams.get(event.stream_id)):
            stream.feed(event.data, event.stream_ended)
            if self.unread_bytes > UNREAD_BYTES:
                self.reset(event.stream_id, ErrorCode.H3_EXCESSIVE_LOAD)

    def _watch_head(self, stream_id: int) -> None:
        """The client has sent something; is it a part of a head, and not too large a one?"""
        waiting = self.h3.waiting_bytes(stream_id)
        if waiting > MAX_HEAD_BYTES:
            self.close(ErrorCode.H3_EXCESSIVE_LOAD)
        elif waiting and stream_id % 4 == 0 and stream_id not in (self._timers | self.streams):
            self._timers[stream_id] = self._loop.call_later(
                self.server.config.head_seconds, self._give_up_head, stream_id
            )

    def _give_up_head(self, stream_id: int) -> None:
        self._timers.pop(stream_id, None)
        self.reset(stream_id, ErrorCode.H3_REQUEST_INCOMPLETE)

    def _cancel(self, key: int) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()

    def reset(self, stream_id: int, code: int) -> None:
        """End one stream in both directions; its neighbours go on."""
        if stream := self.streams.get(stream_id):
            stream.lose()
        for act in (self._quic.stop_stream, self._quic.reset_stream):
            self._quietly(act, stream_id, code)
        self._transmit_soon()

    def stop_reading(self, stream_id: int) -> None:
        """The answer is complete: what the client still sends is of no interest."""
        self._quietly(self._quic.stop_stream, stream_id, ErrorCode.H3_NO_ERROR)
        self._transmit_soon()

    def _quietly(self, act: Callable[[int, int], None], stream_id: int, code: int) -> None:
        try:
            act(stream_id, code)
        except (AssertionError, ValueError, KeyError):  # it has ended on that side
            log.debug("a stream had ended", stream=stream_id)

    def unsent_bytes(self, stream_id: int) -> int:
        """Of an answer: not sent, or not acknowledged."""
        stream = self._quic._streams.get(stream_id)
        return len(stream.sender._buffer) if stream is not None else 0

    def _has_ended(self, stream_id: int) -> bool:
        """Has all been sent that there is to send?"""
        stream = self._quic._streams.get(stream_id)
        return stream is None or stream.sender._buffer_fin is not None

    def finished(self, stream_id: int) -> None:
        """The app is done with this request; the client has its time to take the rest of the answer."""
        self.streams.pop(stream_id, None)
        self.server.changed.set()
        if self.unsent_bytes(stream_id) > KEPT_BYTES:
            self._loop.call_later(SEND_SECONDS, self._give_up_answer, stream_id)

    def _give_up_answer(self, stream_id: int) -> None:
        if self.unsent_bytes(stream_id):
            self.reset(stream_id, ErrorCode.H3_REQUEST_CANCELLED)

    def end_if_idle(self) -> None:
        """While the edge ends."""
        if not self.streams:
            self.close(ErrorCode.H3_NO_ERROR)

    def _ended(self) -> None:
        for key in list(self._timers):
            self._cancel(key)
        for stream in list(self.streams.values()):
            stream.lose()
        self.server.open.discard(self)
        self.server.changed.set()
        self.moved.set()
