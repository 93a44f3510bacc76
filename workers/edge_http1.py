"""HTTP/1.1 on one connection of Hypercorn's: read by h11, strictly; answered by `workers.edge_exchange`.

In the place of Hypercorn's H11Protocol and HTTPStream, which spend most of a request on handing it on: two
queues, a task that is cancelled and made anew for each pause, one more for each read's deadline, and three
writes with a lock and a deadline each. Here bytes go from the socket into h11 and from there to the app, an
answer leaves in one write, and one timer for each connection looks whether something took too long. h11 reads
requests only: a new parser for each, so none has to be told about answers. Figures: docs/performance.md,
"What Hypercorn costs". Promises: `workers.edge_connections`.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import Any, cast

import h11
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.events import Event, RawData
from hypercorn.protocol.h11 import H2ProtocolAssumedError

from app.errors import ApiError
from workers import edge_limits
from workers.edge_exchange import Exchange, refusal
from workers.edge_head import Head, is_too_large
from workers.edge_limits import MAX_HEAD_BYTES, head_too_large, head_too_late, no_request
from workers.edge_protocols import EdgeConfig

HIGH_WATER_BYTES = 64 * 1024  # of a body that wait for the app; then we stop reading
new_parser = partial(h11.Connection, h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)


class Http1(asyncio.Protocol):
    """The transport's protocol from `take_over` on, unless the client turns out to speak HTTP/2."""

    transport: asyncio.Transport
    skips_bodies = False

    def __init__(  # noqa: PLR0917  (as Hypercorn calls it)
        self,
        app: Any,
        config: EdgeConfig,
        context: Any,
        task_group: Any,
        connection_state: Any,
        ssl: bool,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
        _send: Any,
    ) -> None:
        self.edge = config
        self.flow = self
        self.running: Exchange | None = None  # the request that is being answered
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[bytes] = self._loop.create_future()
        self._app = cast(ASGIWrapper, app).app
        self._context = context
        self._tasks = task_group
        self._scope = {
            "type": "http",
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "scheme": "https" if ssl else "http",
            "root_path": config.root_path,
            "extensions": {},
            "client": client,
            "server": server,
        }
        self._state = connection_state
        self._parser = new_parser()
        self._requests_left = edge_limits.REQUESTS_PER_CONNECTION
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._write_paused_at = 0.0
        self._head_began = 0.0  # 0 unless part of a head is there
        self._idle_since = self._loop.time()
        self._is_reading = True
        self._is_deaf = False  # what still comes is not read as HTTP
        self._has_ended = False  # all is said
        self._has_left = False  # the client has closed its side
        self._timers: list[asyncio.TimerHandle] = []

    async def initiate(self) -> None:
        """Nothing: `take_over` begins."""

    async def handle(self, event: Event) -> None:
        """Bytes come here only when they are HTTP/2: Hypercorn takes this for the sign to change over."""
        if isinstance(event, RawData):
            raise H2ProtocolAssumedError(event.data)
        if self.running is not None:
            self.running.lose()

    # --- the transport ------------------------------------------------------------------------------

    def take_over(self, transport: asyncio.Transport, data: bytes) -> None:
        """From now on what arrives comes here, after `data`. `ended` has a result when all is over:
        empty, or what a client sent that speaks HTTP/2 without having asked."""
        self.transport = transport
        self.write = transport.write
        self._streams = transport.get_protocol()
        transport.set_protocol(self)
        self._look_seconds = min(
            self.edge.head_seconds, self.edge.keep_alive_timeout, edge_limits.SEND_SECONDS
        )
        self._timers.append(self._loop.call_later(self._look_seconds, self._look))
        self.data_received(data)

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        running = self.running
        if running is None and is_too_large(data):
            self._refuse_rest(head_too_large())
            return
        self._parser.receive_data(data)
        if running is None or running.more_body:
            self._read()
        else:
            self._pause_reading()  # it did not wait for its answer

    def eof_received(self) -> bool:
        self._has_left = True
        running = self.running
        if running is None or self._has_ended:
            return False
        running.has_left = True
        running.is_lost = self._scope["scheme"] == "https"  # TLS has no half-closing
        running.wake()
        return not running.is_lost  # it may only have closed its sending side: answered() hangs up

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_deaf = self._has_ended = True
        for timer in self._timers:
            timer.cancel()
        if self.running is not None:
            self.running.lose()
            self.running = None
        self._can_write.set()
        self._streams.connection_lost(exc)
        self._finish(b"")

    def pause_writing(self) -> None:
        self._write_paused_at = self._loop.time()
        self._can_write.clear()
        cast(asyncio.Protocol, self._streams).pause_writing()

    def resume_writing(self) -> None:
        self._write_paused_at = 0.0
        self._can_write.set()
        cast(asyncio.Protocol, self._streams).resume_writing()

    @property
    def write_paused(self) -> bool:
        """Does the client not take what it is sent?"""
        return not self._can_write.is_set()

    async def drain(self) -> None:
        """Wait until it does; `_look` is the deadline."""
        await self._can_write.wait()

    def resume_reading(self) -> None:
        """There is room for what the client sends."""
        if not self._is_reading:
            self._is_reading = True
            self.transport.resume_reading()

    def _pause_reading(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self.transport.pause_reading()

    def _finish(self, rest: bytes) -> None:
        if not self.ended.done():
            self.ended.set_result(rest)

    # --- what is asked ------------------------------------------------------------------------------

    def _read(self) -> None:
        """What there is of one request."""
        parser = self._parser
        try:
            while True:
                event: Any = parser.next_event()
                kind = type(event)
                if kind is h11.Data:
                    if self.running is not None and self.running.add_body(event.data) > HIGH_WATER_BYTES:
                        self._pause_reading()
                elif kind is h11.EndOfMessage:
                    if self.running is not None:
                        self.running.end_body()
                    break
                elif kind is not h11.Request:
                    break
                elif not self._begin(Head(event)):
                    return
        except h11.RemoteProtocolError as error:
            self._refuse_rest(head_too_large() if error.error_status_hint == 431 else no_request())
            return
        if (running := self.running) is not None:
            if not (running.is_begun or running.begin(self._app)):
                self._tasks.spawn(running.run, self._app)
        elif parser.trailing_data[0] and not self._head_began:
            self._head_began = self._loop.time()

    def _begin(self, head: Head) -> bool:
        """A request, which the app is given when what came with its head has been read, too."""
        if head.is_http2:
            self._hand_over(b"PRI * HTTP/2.0\r\n\r\n" + self._parser.trailing_data[0])
            return False
        self._head_began = 0.0
        self._requests_left -= 1
        scope = {**self._scope, **head.scope(), "state": self._state.copy()}
        keep_alive = head.keep_alive and self._requests_left > 0
        expects = self._parser.they_are_waiting_for_100_continue
        self.running = Exchange(self, scope, keep_alive=keep_alive, expects_continue=expects)
        self.running.has_left = self._has_left
        return True

    def _hand_over(self, data: bytes) -> None:
        """To HTTP/2."""
        for timer in self._timers:
            timer.cancel()
        self.transport.set_protocol(self._streams)
        self._finish(data)

    # --- what is answered ---------------------------------------------------------------------------

    def answered(self, exchange: Exchange) -> None:
        """The whole answer is on its way: go on with the next request, or end."""
        if exchange is not self.running:
            return
        self.running = None
        if not exchange.keep_alive or exchange.more_body or self._context.terminated.is_set():
            self._end()
            return
        self._idle_since = self._loop.time()
        (rest, _), self._parser = self._parser.trailing_data, new_parser()
        if rest:
            self.data_received(rest)
        if self.running is None and self._has_left:
            self._end()
        elif self.running is None or self.running.more_body:  # else a flood of requests fills our memory
            self.resume_reading()

    def refuse(self, error: ApiError, exchange: Exchange) -> None:
        """Answer `error` in the place of `exchange`, which can give none."""
        if exchange is self.running:
            self._answer_refusal(error)

    def _refuse_rest(self, error: ApiError) -> None:
        self._is_deaf = True
        if self.running is not None:
            if self.running.has_begun:
                self.running.keep_alive = False
                return
            self.running.lose()
        self._answer_refusal(error)

    def _answer_refusal(self, error: ApiError) -> None:
        self.running = None
        self.write(refusal(self.edge, error))
        self._end()

    # --- the end ------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """The edge ends: what is idle does, too."""
        if self.running is None and not self._head_began:
            self._end()

    def _end(self) -> None:
        """We have said all: let the client read it, and hang up."""
        if self._has_ended:
            return
        self._has_ended = self._is_deaf = True
        with contextlib.suppress(NotImplementedError, OSError, RuntimeError):  # TLS has no half-closing
            self.transport.write_eof()
        self.resume_reading()
        seconds = 0.0 if self._has_left else edge_limits.LINGER_SECONDS
        self._timers.append(self._loop.call_later(seconds, self.transport.close))
        self._timers.append(self._loop.call_later(edge_limits.SEND_SECONDS, self.transport.abort))

    def _look(self) -> None:
        """Has something taken too long? Each deadline is at least `look_seconds`, so none is missed."""
        now = self._loop.time()
        due, act = now + self._look_seconds, self._end
        if self._write_paused_at:
            due, act = self._write_paused_at + edge_limits.SEND_SECONDS, self.transport.abort
        elif self._head_began:
            due, act = self._head_began + self.edge.head_seconds, self._give_up_head
        elif self.running is None:
            due = self._idle_since + self.edge.keep_alive_timeout
        if due <= now:
            act()
        elif not self._has_ended and not self.transport.is_closing():
            self._timers[0] = self._loop.call_at(min(due, now + self._look_seconds), self._look)

    def _give_up_head(self) -> None:
        self._head_began = 0.0
        self._refuse_rest(head_too_late(self.edge.head_seconds))
