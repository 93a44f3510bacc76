"""Hypercorn's connections, bounded against whoever is at the other end. `install` puts them into Hypercorn.

Hypercorn has settings for most of what an edge needs, and no hook for the rest, which is here:

* what its parser refuses is answered in the shape of every other error of ours, with CORS headers;
* the head of a request has a deadline, an answer that its client does not read has one, and connections
  have a bound;
* a connection that the client has closed is let go at once, not after `keep_alive_timeout`;
* a connection that we close first is read on for a moment, so that the client sees the answer instead of a
  reset;
* WebSockets and upgrades to HTTP/2 are not offered: we serve none, and proxies that pass `Upgrade: h2c` on
  would lose sight of what follows;
* whatever else a peer provokes ends its own connection and is logged in one line.

tests/test_hostile_http.py holds each of them: it fails if a new Hypercorn goes other ways.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from typing import Any, ClassVar

import h2.errors
import h2.exceptions
import h11
import hypercorn.asyncio.run
import hypercorn.protocol
import structlog
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol

from app.errors import ApiError, Kind
from app.gate import Envelope
from app.settings import Settings

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
SEND_SECONDS = 30.0  # for a client to take what we send; then it is gone
LINGER_SECONDS = 2.0
RESERVED_FILES = 256  # descriptors for everything that is no client

log = structlog.get_logger()


class EdgeConfig(Config):
    """Hypercorn's settings and ours for one process. Of `settings` only what Hypercorn does not know."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.head_seconds = settings.server.read_timeout
        self.max_connections = min(settings.server.max_connections, _files() - RESERVED_FILES)
        self.envelope = Envelope(settings)
        self.h11_max_incomplete_size = MAX_HEAD_BYTES


def _files() -> int:
    """How many descriptors this process may have, after asking for as many as it can get."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return soft


def install() -> None:
    """From now on this process' Hypercorn uses the classes of this module."""
    hypercorn.asyncio.run.TCPServer = Connection  # type: ignore[attr-defined]
    hypercorn.protocol.H11Protocol = Http1  # type: ignore[attr-defined]
    hypercorn.protocol.H2Protocol = Http2  # type: ignore[attr-defined]


class Connection(TCPServer):
    """One TCP connection, from accept to close."""

    config: EdgeConfig
    open: ClassVar[int] = 0

    async def run(self) -> None:
        if Connection.open >= self.config.max_connections:
            self.writer.transport.abort()  # not a word: whoever floods us would make us send them
            return
        Connection.open += 1
        self._is_closing = self._has_ended = False
        self._timers: list[asyncio.TimerHandle] = []
        try:
            await super().run()
        except Exception as error:
            log.warning("a connection broke", error=repr(error)[:200])
        finally:
            Connection.open -= 1
            for timer in self._timers:
                timer.cancel()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await super().protocol_send(event)
            except TimeoutError:
                self.writer.transport.abort()
        elif isinstance(event, Closed):
            self._end()
        elif not (isinstance(event, Updated) and self._has_ended):
            await super().protocol_send(event)

    def _end(self) -> None:
        """We have said all: let the client read it, and hang up."""
        if self._is_closing:
            return
        self._is_closing = True
        with contextlib.suppress(NotImplementedError, OSError, RuntimeError):  # TLS has no half-closing
            self.writer.write_eof()
        self._timers.append(self.loop.call_later(LINGER_SECONDS, self.reader.feed_eof))
        self._timers.append(self.loop.call_later(SEND_SECONDS, self.writer.transport.abort))

    async def _read_data(self) -> None:
        data = b"begin"
        while data:
            try:
                data = await asyncio.wait_for(self.reader.read(MAX_RECV), self.config.read_timeout)
            except (OSError, TimeoutError):
                break
            if not self._is_closing:
                await self.protocol.handle(RawData(data))
        self._has_ended = True
        await self.protocol.handle(Closed())
        await self.idle_task.stop()  # it would hold the connection until the end of its time

    async def _initiate_server_close(self) -> None:
        self._end()
        await super()._initiate_server_close()


class _Requests(h11.Connection):
    """h11, stricter. Errors: h11.RemoteProtocolError, with the status to answer."""

    def next_event(self) -> Any:
        event = super().next_event()
        return self._checked(event) if isinstance(event, h11.Request) else event

    def _checked(self, request: h11.Request) -> h11.Request:
        names = [name for name, _ in request.headers]
        size = sum(len(name) + len(value) for name, value in request.headers)
        if len(names) > MAX_HEADERS or size + len(request.target) > MAX_HEAD_BYTES:
            raise h11.RemoteProtocolError("too many headers", error_status_hint=431)
        is_http2 = request.method == b"PRI" and request.http_version == b"2.0"
        if request.http_version not in (b"1.0", b"1.1") and not is_http2:
            raise h11.RemoteProtocolError("unknown version")
        # Two lengths are how a request is smuggled past a proxy that believes the other one.
        if b"transfer-encoding" in names and b"content-length" in names:
            raise h11.RemoteProtocolError("both Transfer-Encoding and Content-Length")
        if b"upgrade" not in names:
            return request
        return h11.Request(
            method=request.method,
            target=request.target,
            headers=[(name, value) for name, value in request.headers if name != b"upgrade"],
            http_version=request.http_version,
        )


class Http1(H11Protocol):
    """HTTP/1.1 on one connection."""

    config: EdgeConfig

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.connection = _Requests(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._head_timer: asyncio.TimerHandle | None = None

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        waits_for_head = (
            isinstance(event, RawData)
            and self.connection.their_state is h11.IDLE
            and bool(self.connection.trailing_data[0])
        )
        if waits_for_head and self._head_timer is None:
            loop = asyncio.get_running_loop()
            self._head_timer = loop.call_later(self.config.head_seconds, self._give_up_head)
        elif not waits_for_head and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up_head(self) -> None:
        self.task_group.spawn(self._refuse_head)

    async def _refuse_head(self) -> None:
        if self.connection.their_state is h11.IDLE:  # it has not come in this very moment
            await self._send_error_response(408)
            await self.send(Closed())

    async def _send_error_response(self, status_code: int) -> None:
        error = self._error(status_code)
        headers, body = self.config.envelope.refuse(error)
        headers += [(b"connection", b"close"), *self.config.response_headers("h11")]
        await self._send_h11_event(h11.Response(status_code=error.row.status, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())

    def _error(self, status_code: int) -> ApiError:
        if status_code == 408:
            seconds = self.config.head_seconds
            return ApiError(
                Kind.REQUEST_TIMEOUT, f"The head of the request did not arrive within {seconds:g} seconds."
            )
        if status_code == 431:
            return ApiError(
                Kind.HEAD_TOO_LARGE,
                f"The head of a request may have {MAX_HEAD_BYTES} bytes and {MAX_HEADERS} headers.",
            )
        return ApiError(
            Kind.INVALID_REQUEST,
            "This is not HTTP/1.1: check the request line, Host, either Content-Length or "
            "Transfer-Encoding (only chunked), and each line of the head.",
        )


class _Finished:
    """In the place of a stream that was answered: what still comes for it is of no interest."""

    idle = True

    async def handle(self, event: StreamEvent) -> None:
        pass


class _Streams(dict[int, Any]):
    def __missing__(self, stream_id: int) -> _Finished:
        return _Finished()


class Http2(H2Protocol):
    """HTTP/2 on one connection. A stream that misbehaves is reset; its neighbours go on."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.streams = _Streams()

    async def stream_send(self, event: StreamEvent) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await super().stream_send(event)
        except TimeoutError:
            await self._reset(event.stream_id, h2.errors.ErrorCodes.CANCEL)

    async def _create_stream(self, request: Any) -> None:
        head = dict(request.headers)
        method, path = head.get(b":method", b""), head.get(b":path", b"")
        is_readable = method.isascii() and path.isascii() and path.startswith((b"/", b"*"))
        if method == b"CONNECT" or not is_readable:
            await self._reset(request.stream_id, h2.errors.ErrorCodes.PROTOCOL_ERROR)
        else:
            await super()._create_stream(request)

    async def _priority_updated(self, event: Any) -> None:
        """RFC 9113 deprecates priorities, and a tree of them is a place to flood."""

    async def _close_stream(self, stream_id: int) -> None:
        buffer = self.stream_buffers.get(stream_id)
        is_cut = stream_id in self.streams and buffer is not None and not buffer.complete
        await super()._close_stream(stream_id)
        if is_cut:
            await self._reset(stream_id, h2.errors.ErrorCodes.CANCEL)

    async def _reset(self, stream_id: int, code: h2.errors.ErrorCodes) -> None:
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.connection.reset_stream(stream_id, code)
        if buffer := self.stream_buffers.get(stream_id):
            await buffer.close()
        await self._flush()
