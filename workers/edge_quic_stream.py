"""One request and its answer over HTTP/3: `receive` and `send`, as an ASGI app is given them.

Next: `workers.edge_quic`, which makes these.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import structlog
from aioquic.h3.connection import ErrorCode
from hypercorn.utils import build_and_validate_headers, filter_pseudo_headers, suppress_body
from starlette.types import Message

from app.errors import ApiError, Kind
from workers.edge_limits import MAX_HEAD_BYTES, MAX_HEADERS, SEND_SECONDS, head_too_large

if TYPE_CHECKING:
    from workers.edge_quic import Http3Connection

UNSENT_BYTES = 64 * 1024  # of an answer; the app waits until the client has taken the rest

log = structlog.get_logger()


class Stream:
    """From the head of a request to the end of its answer."""

    def __init__(
        self,
        connection: Http3Connection,
        stream_id: int,
        headers: list[tuple[bytes, bytes]],
        *,
        is_complete: bool,
    ) -> None:
        self._connection = connection
        self._id = stream_id
        self._headers = headers
        self._body = bytearray()
        self._is_complete = is_complete
        self._is_told_all = False
        self._is_lost = False
        self._is_answered = False
        self._start: Message | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._scope: dict[str, Any] = {}

    # --- what the connection tells -----------------------------------------------------------------

    def start(self) -> None:
        """Give the request to the app, or refuse it."""
        head = dict(self._headers)
        method, path = head.get(b":method", b""), head.get(b":path", b"")
        size = sum(len(name) + len(value) for name, value in self._headers)
        if (
            not (method.isascii() and path.isascii() and path.startswith((b"/", b"*")))
            or method == b"CONNECT"
        ):
            self._connection.reset(self._id, ErrorCode.H3_MESSAGE_ERROR)
            return
        self._connection.streams[self._id] = self
        raw_path, _, query = path.partition(b"?")
        self._scope = {
            "type": "http",
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "http_version": "3",
            "method": method.decode().upper(),
            "scheme": "https",
            "path": unquote(raw_path.decode()),
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": filter_pseudo_headers(self._headers),
            "client": self._connection.client,
            "server": None,
            "state": self._connection.server.state.copy(),
            "extensions": {},
        }
        is_large = size > MAX_HEAD_BYTES or len(self._headers) > MAX_HEADERS + 4  # of which 4 are no headers
        self._task = asyncio.create_task(self._run(head_too_large() if is_large else None))

    def feed(self, data: bytes, is_complete: bool) -> None:
        """More of the body."""
        if not (self._is_lost or self._is_answered):
            self._body += data
            self._connection.unread_bytes += len(data)
        self._is_complete = self._is_complete or is_complete
        self._changed.set()

    def lose(self) -> None:
        """Nobody reads the answer."""
        self._is_lost = True
        self._take_body()
        self._changed.set()
        self._connection.moved.set()

    # --- what the app is given ---------------------------------------------------------------------

    async def _run(self, refusal: ApiError | None) -> None:
        connection = self._connection
        try:
            if refusal is not None:
                await self._refuse(refusal)
            else:
                await connection.server.app(self._scope, self.receive, self.send, None, None)
                if not (self._is_answered or self._is_lost):
                    raise RuntimeError("the app returned without an answer")
        except Exception as error:
            log.error("the app raised", exc_info=error)
            if self._start is None:
                await self._refuse(
                    ApiError(Kind.INTERNAL, "This is a bug of the server, not of the request.")
                )
            elif not self._is_answered:
                connection.reset(self._id, ErrorCode.H3_INTERNAL_ERROR)
        finally:
            self._take_body()
            connection.finished(self._id)

    async def receive(self) -> Message:
        """The next piece of the body, or the client's leaving."""
        while True:
            if self._body or (self._is_complete and not self._is_told_all):
                self._is_told_all = self._is_complete
                return {"type": "http.request", "body": self._take_body(), "more_body": not self._is_complete}
            if self._is_lost or self._is_answered:
                return {"type": "http.disconnect"}
            self._changed.clear()
            await self._changed.wait()

    async def send(self, message: Message) -> None:
        """The head of the answer, or the next piece of its body."""
        if self._is_lost:
            return
        if message["type"] == "http.response.start":
            if self._start is not None:
                raise RuntimeError("a second http.response.start")
            headers = build_and_validate_headers(message["headers"])
            headers = [one for one in headers if one[0] not in (b"connection", b"transfer-encoding")]
            own = self._connection.server.config.response_headers("h3")
            status = (b":status", b"%d" % message["status"])
            self._connection.h3.send_headers(self._id, [status, *headers, *own])
            self._start = message
            return  # it leaves with what follows
        if self._start is None or self._is_answered or message["type"] != "http.response.body":
            raise RuntimeError(f"{message['type']} at this point of an answer")
        body = message.get("body", b"")
        if suppress_body(self._scope["method"], self._start["status"]):
            body = b""
        more = message.get("more_body", False)
        for at in range(0, len(body) or 1, UNSENT_BYTES):
            piece = bytes(body[at : at + UNSENT_BYTES])
            await self._send_piece(piece, not more and at + UNSENT_BYTES >= len(body))
        if not more and not self._is_lost:
            self._is_answered = True
            self._changed.set()
            if not self._is_complete:
                self._connection.stop_reading(self._id)

    async def _send_piece(self, piece: bytes, is_last: bool) -> None:
        connection = self._connection
        try:
            async with asyncio.timeout(SEND_SECONDS):
                while not self._is_lost and connection.unsent_bytes(self._id) > UNSENT_BYTES:
                    connection.moved.clear()
                    await connection.moved.wait()
        except TimeoutError:
            connection.reset(self._id, ErrorCode.H3_REQUEST_CANCELLED)
        if not self._is_lost:
            connection.h3.send_data(self._id, piece, is_last)
            connection.transmit()

    async def _refuse(self, error: ApiError) -> None:
        headers, body = self._connection.server.config.answer_headers.refuse(error)
        await self.send({"type": "http.response.start", "status": error.row.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def _take_body(self) -> bytes:
        body = bytes(self._body)
        self._body.clear()
        self._connection.unread_bytes -= len(body)
        return body
