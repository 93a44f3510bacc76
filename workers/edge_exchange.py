"""One request and its answer over HTTP/1.1, under either server: an ASGI app's `receive` and `send`.

In the place of what uvicorn (RequestResponseCycle) and Hypercorn (HTTPStream and its queues) have, for what
they do not do: a client that only closed its sending side still gets its answer, an answer while the edge is
leaving ends the connection, an error is one line of the log. And for speed, since this runs for every event:
a body that came in one piece is passed on as it is, head and body leave in one write, and a line break in a
header is looked for once, not in each of them. Next: `workers.edge_http1` or `workers.edge_uvicorn_protocol`,
which make these and are told when they end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import structlog
from starlette.types import ASGIApp, Message

from app.errors import ApiError, Kind
from app.gate import AnswerHeaders, Begin
from app.http import Headers
from workers.edge_answer import STATUS_LINES, header_lines

DISCONNECT: Message = {"type": "http.disconnect"}

log = structlog.get_logger()


def refusal(edge: EdgeOfAll, error: ApiError) -> bytes:
    """A whole answer, after which the connection ends."""
    headers, body = edge.answer_headers.refuse(error)
    lines = [STATUS_LINES[error.row.status], edge.date_line, b"connection: close\r\n"]
    return b"".join([*lines, *(b"%b: %b\r\n" % header for header in headers), b"\r\n", body])


class Flow(Protocol):
    """Whether the client takes what it is sent, and whether we take what it sends."""

    @property
    def write_paused(self) -> bool: ...

    async def drain(self) -> None: ...

    def resume_reading(self) -> None: ...


class Leaving(Protocol):
    """Set once the edge is leaving."""

    is_set: bool


class EdgeOfAll(Protocol):
    """What the connections of one process share. `date_line`: `date`, and what else each answer carries."""

    @property
    def date_line(self) -> bytes: ...

    @property
    def draining(self) -> Leaving: ...

    @property
    def tasks(self) -> set[asyncio.Task[None]]: ...

    @property
    def answer_headers(self) -> AnswerHeaders: ...


class Carrier(Protocol):
    """The connection."""

    transport: asyncio.Transport
    skips_bodies: bool  # an answer before the end of its request does not end the connection

    @property
    def edge(self) -> EdgeOfAll: ...

    @property
    def flow(self) -> Flow: ...

    @property
    def write(self) -> Callable[[bytes], None]: ...

    def answered(self, exchange: Exchange) -> None: ...

    def refuse(self, error: ApiError, exchange: Exchange) -> None: ...


class Exchange:
    """Made when a request's head is complete; `run` is its task."""

    __slots__ = (
        "_body", "_changed", "_connection", "_has_head", "_head", "_is_chunked", "_left_bytes", "_scope",
        "expects_continue", "has_body", "has_left", "is_answered", "is_begun", "is_lost", "is_told_all",
        "keep_alive", "more_body", "task",
    )  # fmt: skip

    def __init__(self, connection: Carrier, scope: Any, *, keep_alive: bool, expects_continue: bool) -> None:
        self.keep_alive = keep_alive
        self.expects_continue = expects_continue
        self.more_body = True  # the end of the request has not come yet
        self.is_begun = False  # the app has it
        self.is_answered = False
        self.has_left = False  # the client will send nothing more
        self.is_lost = False  # nobody reads the answer
        self.task: asyncio.Task[None] | None = None
        self._connection = connection
        self._scope = scope
        self._body: bytes | bytearray = b""
        self._changed: asyncio.Event | None = None
        self.is_told_all = False
        self._has_head = False  # the app has given the head of its answer
        self._head: bytes | None = None  # not sent yet
        self._is_chunked = False
        self._left_bytes: int | None = None  # of a body whose length is known
        self.has_body = True

    # --- what the connection tells -----------------------------------------------------------------

    def add_body(self, piece: bytes) -> int:
        """How many bytes wait for the app now."""
        if not self._body:
            self._body = piece
        elif isinstance(self._body, bytearray):
            self._body += piece
        else:
            self._body = bytearray(self._body)
            self._body += piece
        self.wake()
        return len(self._body)

    def end_body(self) -> None:
        """The request is whole."""
        self.more_body = False
        self.wake()

    def wake(self) -> None:
        """Something changed that `receive` may wait for."""
        if self._changed is not None:
            self._changed.set()

    def lose(self) -> None:
        """The connection is gone."""
        self.is_lost = self.has_left = True
        self.wake()

    @property
    def has_begun(self) -> bool:
        """Part of the answer has been sent."""
        return self._has_head and self._head is None

    # --- without a task -----------------------------------------------------------------------------

    def begin(self, app: object) -> bool:
        """Give the app a request that is whole, if it takes such (`Gate.begin`). False: `run` is due."""
        self.is_begun = True
        begin: Begin | None = getattr(app, "begin", None)
        if begin is None or self.more_body or self.expects_continue or self._connection.flow.write_paused:
            return False
        try:
            return begin(self._scope, self._body, self._reply)
        except Exception as error:  # the other way answers it
            log.error("the app raised", exc_info=error)
            return False

    def _reply(self, status: int, body: bytes, headers: Headers) -> None:
        if self.is_lost:
            return
        try:
            self._begin_answer(status, headers)
            self._go_on(body, more=False)
        except Exception as error:  # whoever else shares the group is answered next
            log.error("an answer could not be sent", exc_info=error)
            self._break_off()

    # --- what the app is given ---------------------------------------------------------------------

    async def run(self, app: ASGIApp) -> None:
        """The app's whole work on this request."""
        connection = self._connection
        try:
            await app(self._scope, self.receive, self.send)
        except Exception as error:
            log.error("the app raised", exc_info=error)
            self._break_off()
        else:
            if not self.is_answered and not self.is_lost:
                if not self.has_left:  # an app that is told of that need not go on
                    # In the middle of it: such as an export whose key has ended, which has said why.
                    tell = log.warning if self.has_begun else log.error
                    tell("the app returned without the end of its answer", path=self._scope["path"])
                self._break_off()
        finally:
            if self.task is not None:
                connection.edge.tasks.discard(self.task)

    async def receive(self) -> Message:
        """The next piece of the body, or the client's leaving."""
        if self.expects_continue:
            self.expects_continue = False
            if not (self._has_head or self.is_lost):
                self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while True:
            if self._body or not (self.more_body or self.is_told_all):
                body, self._body = self._body, b""
                self.is_told_all = not self.more_body
                return {"type": "http.request", "body": bytes(body), "more_body": self.more_body}
            if self.has_left or self.is_answered:
                return DISCONNECT
            if self.more_body:
                self._connection.flow.resume_reading()
            if self._changed is None:  # most requests are all there when they are asked for
                self._changed = asyncio.Event()
            self._changed.clear()
            await self._changed.wait()

    async def send(self, message: Message) -> None:
        """The head of the answer, or the next piece of its body."""
        flow = self._connection.flow
        if flow.write_paused:
            await flow.drain()
        if self.is_lost:
            return
        if message["type"] == "http.response.start":
            if self._has_head:
                raise RuntimeError("a second http.response.start")
            self._begin_answer(message["status"], map(tuple, message["headers"]))
            return
        if not self._has_head or self.is_answered or message["type"] != "http.response.body":
            raise RuntimeError(f"{message['type']} at this point of an answer")
        self._go_on(message.get("body", b""), more=message.get("more_body", False))

    def _go_on(self, body: bytes, *, more: bool) -> None:
        """The next piece of the answer's body."""
        connection = self._connection
        if not self.has_body:
            body = b""
        elif self._is_chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        elif self._left_bytes is not None:
            self._left_bytes -= len(body)
            if self._left_bytes < 0 or (self._left_bytes and not more):
                raise RuntimeError("the answer's body has another length than its Content-Length")
        if self._head is not None:
            body = self._head + body
            self._head = None
        connection.write(body)
        if not more:
            self.is_answered = True
            self.wake()
            connection.answered(self)

    def _begin_answer(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """The head of the answer, which leaves with what follows."""
        edge = self._connection.edge
        lines, length, is_closing = header_lines(headers)
        if edge.draining.is_set or not self.keep_alive:
            is_closing = True
        if self.more_body and (self.expects_continue or not self._connection.skips_bodies):
            is_closing = True  # who was not told to continue may send the body, or the next request
        if self._scope["method"] == "HEAD" or status in (204, 304):
            self.has_body = False
        elif length is not None:
            self._left_bytes = length
        elif self._scope["http_version"] == "1.1":
            self._is_chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        else:
            is_closing = True  # which is how HTTP/1.0 knows the end
        if is_closing:
            self.keep_alive = False
            lines.append(b"connection: close\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
            raise RuntimeError("a header of the answer has a line break in it")
        self._head = b"".join((STATUS_LINES[status], edge.date_line, head, b"\r\n"))
        self._has_head = True

    def _break_off(self) -> None:
        """The answer will not be completed: say so if nothing of it was sent, else cut the connection."""
        if self.is_answered or self.is_lost:
            return
        if self.has_begun:
            self._connection.transport.abort()
        else:
            self.is_answered = True
            self._connection.refuse(
                ApiError(Kind.INTERNAL, "This is a bug of the server, not of the request."), self
            )
