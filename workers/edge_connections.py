"""Hypercorn's connections, bounded against whoever is at the other end. `install` puts them into Hypercorn.

Hypercorn has settings for most of what an edge needs, and no hook for the rest, which is here and in
`workers.edge_http1` and `workers.edge_protocols`:

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
from functools import partial
from typing import ClassVar, cast

import hypercorn.asyncio.run
import hypercorn.protocol
import structlog
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.events import Closed, Event, RawData, Updated

from app.first_step import go_on
from workers.edge_http1 import Http1
from workers.edge_limits import LINGER_SECONDS, SEND_SECONDS
from workers.edge_protocols import EdgeConfig, Http2

log = structlog.get_logger()

ALL_THERE_IS = 2**24  # a reader holds far less


def install() -> None:
    """From now on this process' Hypercorn uses the classes of this module."""
    hypercorn.asyncio.run.TCPServer = Connection  # type: ignore[attr-defined]
    hypercorn.protocol.H11Protocol = Http1  # type: ignore[attr-defined, assignment]
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
        except OSError:
            pass  # it was gone before we knew whose it was
        except Exception as error:
            log.warning("a connection broke", error=repr(error)[:200])
        finally:
            Connection.open -= 1
            for timer in self._timers:
                timer.cancel()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Closed):
            self._end()
        elif not (isinstance(event, Updated) and self._has_ended):
            await super().protocol_send(event)

    async def _write(self, data: bytes) -> None:
        if self._is_closing:
            return
        try:
            if self.send_lock.locked():
                async with asyncio.timeout(SEND_SECONDS), self.send_lock:
                    self.writer.write(data)
                    await self.writer.drain()
                return
            self.writer.write(data)
            drain = self.writer.drain()
            try:
                rest = go_on(drain, drain.send(None))
            except StopIteration:  # there was room: a deadline for that costs 3 us, three times an answer
                return
            async with asyncio.timeout(SEND_SECONDS), self.send_lock:
                await rest
        except TimeoutError:
            self.writer.transport.abort()
        except (ConnectionError, RuntimeError):
            await self.protocol.handle(Closed())

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
        """All that is said. Until `take_over`, and over HTTP/2, the idle task is the deadline: who waits for
        an answer, or watches a tail, need not say anything meanwhile."""
        spoken = self.protocol.protocol
        if isinstance(spoken, Http1):
            await self._speak_http1(spoken)
        else:
            await self._speak_http2()
        self._has_ended = True
        await self.protocol.handle(Closed())
        await self.idle_task.stop()  # it would hold the connection until the end of its time

    async def _speak_http1(self, http1: Http1) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = await self.reader.read(ALL_THERE_IS)
            while data and self._is_closing:
                data = await self.reader.read(ALL_THERE_IS)
        if not data:
            return
        transport = cast(asyncio.Transport, self.writer.transport)
        http1.take_over(transport, data)
        if transport.is_closing() or (self.reader.at_eof() and not http1.eof_received()):
            return  # it has gone, and who came too late to be told need not wait for that
        await self.idle_task.restart(self._task_group, partial(self._shut_down, http1))
        rest = await http1.ended
        if rest:
            await self.idle_task.restart(self._task_group, self._idle_timeout)
            await self.protocol.handle(RawData(rest))
            await self._speak_http2()

    async def _shut_down(self, http1: Http1) -> None:
        await self.context.terminated.wait()
        http1.shutdown()

    async def _speak_http2(self) -> None:
        data = b"begin"
        while data:
            try:
                data = await self.reader.read(MAX_RECV)
            except OSError:
                break
            if not self._is_closing:
                await self.protocol.handle(RawData(data))

    async def _idle_timeout(self) -> None:
        spoken = self.protocol.protocol
        seconds = spoken.rest_seconds if isinstance(spoken, Http2) else self.config.keep_alive_timeout
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.context.terminated.wait()
        await asyncio.shield(self._initiate_server_close())

    async def _initiate_server_close(self) -> None:
        spoken = self.protocol.protocol
        if isinstance(spoken, Http2) and not await spoken.go_away():
            return
        self._end()
        await super()._initiate_server_close()
