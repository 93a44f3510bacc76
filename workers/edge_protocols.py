"""HTTP/1.1 and HTTP/2 as Hypercorn speaks them, stricter: what may be sent to us, and how long it may take.

A refusal of the parser has the shape of every other error of ours. Next: `workers.edge_connections`, which
says why this is here and puts it into Hypercorn.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import h2.errors
import h2.exceptions
import h11
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol

from app.errors import ApiError
from app.gate import AnswerHeaders
from app.settings import Settings
from workers.edge_limits import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    SEND_SECONDS,
    head_too_large,
    head_too_late,
    max_connections,
    no_request,
)


class EdgeConfig(Config):
    """Hypercorn's settings and ours for one process. Of `settings` only what Hypercorn does not know."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.head_seconds = settings.server.read_timeout
        self.max_connections = max_connections(settings)
        self.answer_headers = AnswerHeaders(settings)
        self.h11_max_incomplete_size = MAX_HEAD_BYTES


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
        headers, body = self.config.answer_headers.refuse(error)
        headers += [(b"connection", b"close"), *self.config.response_headers("h11")]
        await self._send_h11_event(h11.Response(status_code=error.row.status, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())

    def _error(self, status_code: int) -> ApiError:
        if status_code == 408:
            return head_too_late(self.config.head_seconds)
        return head_too_large() if status_code == 431 else no_request()


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

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if isinstance(event, Closed):
            for unsent in list(self.stream_buffers.values()):
                await unsent.close()  # or whoever fills it would wait for it to be sent
        elif not self.closed and self._is_flooded():
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self.connection.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
            await self._flush()
            await self.send(Closed())

    def _is_flooded(self) -> bool:
        """h2 looks at the length of a frame when all of it is there, and a length may say 16 MiB."""
        buffer = self.connection.incoming_buffer
        head_bytes = sum(len(frame.data) for frame in buffer._headers_buffer)
        return len(buffer._data) > self.config.h2_max_inbound_frame_size + 9 or head_bytes > MAX_HEAD_BYTES

    async def stream_send(self, event: StreamEvent) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await super().stream_send(event)
        except TimeoutError:
            await self._reset(event.stream_id, h2.errors.ErrorCodes.CANCEL)

    async def _create_stream(self, request: Any) -> None:
        if len(self.stream_buffers) > self.config.h2_max_concurrent_streams:
            await asyncio.sleep(0)  # the sending task puts away those that were reset; its tree takes 1,000
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
        is_cut = not self.closed and stream_id in self.streams and buffer is not None and not buffer.complete
        await super()._close_stream(stream_id)
        if is_cut:
            await self._reset(stream_id, h2.errors.ErrorCodes.CANCEL)

    async def _reset(self, stream_id: int, code: h2.errors.ErrorCodes) -> None:
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.connection.reset_stream(stream_id, code)
        if buffer := self.stream_buffers.get(stream_id):
            await buffer.close()
            self.priority.unblock(stream_id)
            await self.has_data.set()
        await self._flush()
