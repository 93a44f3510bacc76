"""Hypercorn's settings, and HTTP/2 as it speaks it, stricter: what may be sent, and how long it may take.

Next: `workers.edge_connections`, which says why this is here and puts it into Hypercorn.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import h2.errors
import h2.events
import h2.exceptions
from hypercorn.config import Config
from hypercorn.events import Closed, Event, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h2 import BUFFER_LOW_WATER, H2Protocol, StreamBuffer

from app.gate import AnswerHeaders
from app.main import Draining
from app.settings import Settings
from workers.edge_limits import MAX_HEAD_BYTES, REQUESTS_PER_CONNECTION, SEND_SECONDS, max_connections

WORN_SECONDS = 1.0  # of a connection that has had its number of requests


class EdgeConfig(Config):
    """Hypercorn's settings and ours for one process. Of `settings` only what Hypercorn does not know."""

    def __init__(self, settings: Settings, draining: Draining) -> None:
        super().__init__()
        self.head_seconds = settings.server.read_timeout
        self.max_connections = max_connections(settings)
        self.answer_headers = AnswerHeaders(settings)
        self.draining = draining
        self.tasks: set[asyncio.Task[None]] = set()  # Hypercorn has them in groups, by connection
        self._date_second = 0
        self._date_line = b""

    @property
    def date_line(self) -> bytes:
        """The lines that every answer over HTTP/1.1 has, made once a second: `date`, `alt-svc`."""
        if (second := int(time.time())) != self._date_second:
            self._date_second = second
            self._date_line = b"".join(b"%b: %b\r\n" % one for one in self.response_headers("h11"))
        return self._date_line


class _Finished:
    """In the place of a stream that was answered: what still comes for it is of no interest."""

    idle = True

    async def handle(self, event: StreamEvent) -> None:
        pass


class _Streams(dict[int, Any]):
    def __missing__(self, stream_id: int) -> _Finished:
        return _Finished()


class _Buffer(StreamBuffer):
    """What of an answer its client has not taken. Bounded: Hypercorn's takes a closed window, into which
    nothing can be sent, for an empty buffer, and is filled on; an export of any size would be in memory.
    """

    async def pop(self, max_length: int) -> bytes:
        """The first bytes; whoever fills it may go on when little is left."""
        data = bytes(self.buffer[:max_length])
        del self.buffer[: len(data)]
        if len(self.buffer) < BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data


class _Buffers(dict[int, StreamBuffer]):
    def __init__(self, event_class: Any) -> None:
        self._event_class = event_class

    def __setitem__(self, stream_id: int, _: StreamBuffer) -> None:
        super().__setitem__(stream_id, _Buffer(self._event_class))


class Http2(H2Protocol):
    """HTTP/2 on one connection. A stream that misbehaves is reset; its neighbours go on."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.streams = _Streams()
        self.stream_buffers = _Buffers(self.context.event_class)
        self._has_come = False  # a request is there that is no stream yet

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

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        requests = [one for one in events if isinstance(one, h2.events.RequestReceived)]
        if requests and self.context.terminated.is_set():
            # Hypercorn resets them too, without a word of it that they may be sent again.
            for one in requests:
                await self._reset(one.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
            events, requests = [one for one in events if one not in requests], []
        self._has_come = bool(requests)
        try:
            await super()._handle_events(events)
        finally:
            self._has_come = False
        if requests:  # of which all may have ended already, or have begun nothing
            await self._rest()

    async def go_away(self) -> bool:
        """Say which request was the last: what the client has sent since, it may send elsewhere. False, and
        nothing is said, where one is under way: one that came as the connection was about to end."""
        if not self._is_resting:
            return False
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.connection.close_connection()
        await self._flush()
        return True

    @property
    def _is_resting(self) -> bool:
        """Is nothing under way, not even the last byte of an answer?"""
        return not (self._has_come or self.streams or self.stream_buffers)

    @property
    def rest_seconds(self) -> float:
        """Without a request for so long the connection ends. Never amid requests, however many it has had:
        clients can tell which of them were begun, and some give up all of them even so."""
        seconds = float(self.config.keep_alive_timeout)
        return min(seconds, WORN_SECONDS) if self.keep_alive_requests >= REQUESTS_PER_CONNECTION else seconds

    async def _rest(self) -> None:
        """The time of rest begins, if nothing is under way."""
        if not self.closed and self._is_resting:
            await self.send(Updated(idle=True))

    async def _send_data(self, stream_id: int) -> None:
        await super()._send_data(stream_id)
        await self._rest()

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, StreamClosed):
            await self._close_stream(event.stream_id)
            await self._rest()
            return
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
