"""uvicorn's connections, bounded against whoever is at the other end.

What `workers.edge_connections` is to Hypercorn: the same promises, kept at the level of a connection so that
a request costs next to nothing more. One timer for each connection looks whether something took too long.
What uvicorn has no setting for:

* what its parser refuses, or we do (`workers.edge_uvicorn_requests`), is answered in the shape of every other
  error;
* the head of a request has a deadline, an answer that its client does not read has one, a connection that
  says nothing has one from its first second on; connections have a bound;
* a connection that we close first is read on for a moment, so that the client sees the answer, not a reset;
* WebSockets and upgrades are not offered: such a request is answered as if it had not asked.

tests/test_hostile_http.py and tests/test_hostile_slow.py hold each of them under both servers.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from app.errors import ApiError
from app.gate import AnswerHeaders
from app.main import Draining
from app.settings import Settings
from workers import edge_limits
from workers.edge_exchange import Exchange, refusal
from workers.edge_uvicorn_requests import Requests


class Edge(ServerState):
    """What the connections of one process share."""

    connections: set[Connection]  # type: ignore[assignment]

    def __init__(self, settings: Settings, draining: Draining) -> None:
        super().__init__()
        self.draining = draining
        self.date_line = b""
        self.is_finishing = False
        self.answer_headers = AnswerHeaders(settings)
        self.max_connections = edge_limits.max_connections(settings)
        self.head_seconds = settings.server.read_timeout
        self.idle_seconds = settings.server.keep_alive_timeout
        self.send_seconds = edge_limits.SEND_SECONDS
        self.look_seconds = min(self.head_seconds, self.idle_seconds, self.send_seconds)
        self._is_empty = asyncio.Event()

    def remove(self, connection: Connection) -> None:
        """It is closed."""
        self.connections.discard(connection)
        if self.is_finishing and not self.connections:
            self._is_empty.set()

    async def finish(self, seconds: float) -> None:
        """End what is idle, wait for what is not, cut off what takes longer."""
        self.is_finishing = True
        for connection in list(self.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if self.connections:
                    await self._is_empty.wait()
        for connection in list(self.connections):
            connection.transport.abort()
        left = list(self.tasks)  # among them those whose client has gone
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=edge_limits.LINGER_SECONDS)


class Connection(Requests):
    """One TCP connection, from accept to close.

    `running` is the request that is being answered; what was read and must wait for that is in `pipeline`, or
    unparsed.
    """

    skips_bodies = True

    def __init__(
        self, config: Config, edge: Edge, app_state: dict[str, Any], loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(config, edge, app_state, loop)
        self.edge = edge
        self.running: Exchange | None = None
        self._idle_since = 0.0
        self._write_paused_at = 0.0
        self._has_ended = False  # all is said
        self._has_left = False  # the client has closed its side
        self._refusal: ApiError | None = None
        self._timers: list[asyncio.TimerHandle] = []

    # --- the transport ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.edge.max_connections:
            self.is_deaf = True
            transport.abort()  # not a word: whoever floods us would make us send them
            return
        self.write = transport.write
        self._idle_since = self.loop.time()
        self._timers.append(self.loop.call_later(self.edge.look_seconds, self._look))

    def connection_lost(self, exc: Exception | None) -> None:
        self.edge.remove(self)
        for timer in self._timers:
            timer.cancel()
        for exchange in (self.running, self.cycle):
            if exchange is not None:
                exchange.lose()
        self.flow.resume_writing()
        self.pipeline.clear()
        self.unparsed = b""
        self.is_deaf = True
        self.running = self.cycle = None
        self.parser = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self.is_deaf:
            return
        if self.pipeline or self.unparsed:
            self.unparsed += data
        else:
            self.parse(data)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        self._has_left = True
        if self.running is None or self._has_ended:
            return None
        is_lost = self.scheme == "https"  # TLS has no half-closing
        for exchange in (self.running, self.cycle):
            if exchange is not None:
                exchange.has_left = True
                exchange.is_lost = is_lost
                exchange.wake()
        return not is_lost  # it may only have closed its sending side: answered() hangs up

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_paused_at = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_paused_at = 0.0

    # --- what was asked, and answered ---------------------------------------------------------------

    def requested(self, exchange: Exchange) -> None:
        exchange.has_left = self._has_left
        if self.running is None:
            self.running = exchange
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft(exchange)  # type: ignore[arg-type]

    def read(self) -> None:
        if self.running is not None and not self.running.is_begun:
            self._begin(self.running)

    def _begin(self, exchange: Exchange) -> None:
        """With what of it came together with its head."""
        if not exchange.begin(self.app):
            exchange.task = self.loop.create_task(exchange.run(self.app))
            self.tasks.add(exchange.task)

    def answered(self, exchange: Exchange) -> None:
        """The whole answer is on its way: go on with the next request, or end."""
        if exchange is not self.running:
            return
        self.running = None
        if not exchange.keep_alive:
            self._end()
            return
        if self.pipeline:
            self.running = exchange = self.pipeline.pop()  # type: ignore[assignment]
            self._begin(exchange)
        if self.unparsed and not self.pipeline:
            data, self.unparsed = self.unparsed, b""
            self.parse(data)
        if self.pipeline:
            return
        self.flow.resume_reading()
        if self.running is None:
            self._rest()

    def _rest(self) -> None:
        """Nothing is being answered: wait for the next request, unless this was the last one."""
        self._idle_since = self.loop.time()
        if self._refusal is not None:
            self._answer_refusal(self._refusal)
        elif self._has_left or (self.edge.is_finishing and not self.is_in_head):
            self._end()
        elif self.head_began:
            self.head_began = self._idle_since  # while we did not read, it could not come

    def refuse(self, error: ApiError, exchange: Exchange) -> None:
        """Answer `error` in the place of `exchange`, which can give none."""
        if exchange is self.running:
            self.running = None
            self._answer_refusal(error)

    def refuse_rest(self, error: ApiError) -> None:
        self.is_deaf = True
        self._refusal = error
        broken = self.cycle if self.cycle is not None and self.cycle.more_body else None
        if broken is not None and broken is not self.running and self.pipeline:
            self.pipeline.popleft()
        elif broken is not None and broken is self.running:
            if broken.has_begun:
                broken.keep_alive = False
                return
            broken.lose()
            self.running = None
        if self.running is None:
            self._answer_refusal(error)

    def _answer_refusal(self, error: ApiError) -> None:
        self.write(refusal(self.edge, error))
        self._end()

    # --- the end ------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """The edge ends: what is idle does, too."""
        if self.running is None and not self.is_in_head:
            self._end()

    def _end(self) -> None:
        """We have said all: let the client read it, and hang up."""
        if self._has_ended:
            return
        self._has_ended = self.is_deaf = True
        self.pipeline.clear()
        self.unparsed = b""
        with contextlib.suppress(NotImplementedError, OSError, RuntimeError):  # TLS has no half-closing
            self.transport.write_eof()
        self.flow.resume_reading()
        seconds = 0.0 if self._has_left else edge_limits.LINGER_SECONDS
        self._timers.append(self.loop.call_later(seconds, self.transport.close))
        self._timers.append(self.loop.call_later(self.edge.send_seconds, self.transport.abort))

    def _look(self) -> None:
        """Has something taken too long? Each deadline is at least `look_seconds`, so none is missed."""
        now = self.loop.time()
        due = now + self.edge.look_seconds
        if self._write_paused_at:
            due = self._write_paused_at + self.edge.send_seconds
            act = self.transport.abort
        elif self.head_began:
            due = self.head_began + self.edge.head_seconds
            act = self._give_up_head
        elif self.running is None:
            due = self._idle_since + self.edge.idle_seconds
            act = self._end
        if due <= now:
            act()
        elif not self._has_ended:
            self._timers[0] = self.loop.call_at(min(due, now + self.edge.look_seconds), self._look)

    def _give_up_head(self) -> None:
        self.head_began = 0.0
        self.refuse_rest(edge_limits.head_too_late(self.edge.head_seconds))
        self._timers[0] = self.loop.call_later(self.edge.look_seconds, self._look)
