"""What uvicorn's parser reads on one connection, stricter: which requests there are, and what is none.

httptools reads more leniently than our default server, and without bounds; both ends here. Requests that are
sent without waiting for answers are parsed a few at a time. Next: `workers.edge_uvicorn_protocol`, which
answers.
"""

from __future__ import annotations

import urllib.parse
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app.errors import ApiError
from workers.edge_exchange import Exchange
from workers.edge_limits import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    REQUESTS_PER_CONNECTION,
    head_too_large,
    no_request,
)

if TYPE_CHECKING:
    from workers.edge_uvicorn_protocol import Connection

PIECE_BYTES = 2048  # parsed at once; more of them only for a body whose length is known
NOTED = frozenset((b"host", b"content-length", b"transfer-encoding", b"expect", b"upgrade"))


class Requests(HttpToolsProtocol):
    """The reading half of a connection."""

    cycle: Exchange | None  # type: ignore[assignment]  # the request that is being read

    def __init__(self, config: Config, state: ServerState, app_state: dict[str, Any], loop: Any) -> None:
        super().__init__(config, state, app_state, loop)
        self.is_deaf = False  # what still comes is not read as HTTP
        self.is_in_head = False
        self.head_began = 0.0  # 0 unless part of a head is there
        self.unparsed = b""  # waits for answers to what is in `pipeline`
        self._requests_left = REQUESTS_PER_CONNECTION
        self._barren_bytes = 0  # read since something was completed: a head, or a piece of a body
        self._hosts = 0
        self._body_left = 0  # bytes; -1: in chunks
        self._wants_upgrade = False
        self._problem: ApiError | None = None

    def requested(self, exchange: Exchange) -> None:
        """The head of a request is complete."""
        raise NotImplementedError

    def read(self) -> None:
        """All that came has been parsed: with the head of a request usually its body."""
        raise NotImplementedError

    def refuse_rest(self, error: ApiError) -> None:
        """No more can be read here: answer `error` when what was read before it has been answered."""
        raise NotImplementedError

    def parse(self, data: bytes) -> None:
        size = len(data)
        if size <= PIECE_BYTES:
            self._feed(data)
        else:
            view, at = memoryview(data), 0
            while at < size and not self.is_deaf:
                if self.pipeline:
                    self.unparsed += bytes(view[at:])  # behind what a wish to upgrade left
                    break
                end = at + max(PIECE_BYTES, self._body_left)
                self._feed(view[at:end])
                at = end
        self.read()
        if self.is_in_head and not self.head_began:
            self.head_began = self.loop.time()

    def _feed(self, data: bytes | memoryview) -> None:
        if self.parser is None:
            return
        self._barren_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(bytes(data[upgrade.args[0] :]))
        except httptools.HttpParserError:
            self.refuse_rest(self._problem or no_request())
        else:
            if self._barren_bytes > MAX_HEAD_BYTES:
                self.refuse_rest(head_too_large())

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """The parser stopped behind the head. Read it again without the wish, or the body would be lost."""
        if self.is_deaf:
            return
        head = b"%b %b HTTP/1.1\r\n" % (self.parser.get_method(), self.url)
        lines = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parse(b"".join([head, *lines, b"\r\n", rest]))

    # --- what the parser calls ----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.is_in_head = True
        self._wants_upgrade = False
        self._hosts = self._body_left = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.is_in_head:
            return  # a trailer
        name = name.lower()
        self.headers.append((name, value))
        if name in NOTED:
            self._note(name, value)

    def _note(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._hosts += 1
        elif name == b"content-length":
            self._body_left = int(value)  # the parser has looked at it
        elif name == b"transfer-encoding":
            # One coding and one only, or we and a proxy might see the end of the body in different places.
            if value.lower() != b"chunked" or self._body_left < 0:
                raise ValueError
            self._body_left = -1
        elif name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        else:
            self._wants_upgrade = True

    def on_headers_complete(self) -> None:
        parser, scope = self.parser, self.scope
        if parser is None:
            return
        version = parser.get_http_version()
        is_new = version == "1.1"
        if len(self.headers) > MAX_HEADERS or (self._barren_bytes > MAX_HEAD_BYTES and self._is_head_large()):
            self._problem = head_too_large()
            raise ValueError
        if not (is_new or version == "1.0") or (self._hosts != 1 and (is_new or self._hosts)):
            raise ValueError
        if not is_new:
            if self._body_left < 0:
                raise ValueError  # HTTP/1.0 knows no chunks
            scope["http_version"] = version
        method = scope["method"] = parser.get_method().decode("ascii")
        if method == "CONNECT":
            self.is_deaf = True  # what follows is not for us
        elif self._wants_upgrade and parser.should_upgrade():
            return  # the parser stops here: see _go_on_without_upgrade
        self.is_in_head = False
        self.head_began = 0.0
        self._barren_bytes = 0
        raw_path, _, scope["query_string"] = self.url.partition(b"?")
        scope["raw_path"] = raw_path
        path = raw_path.decode("ascii")
        scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        self._requests_left -= 1
        exchange = self.cycle = Exchange(
            cast("Connection", self),
            scope,
            keep_alive=is_new and self._requests_left > 0 and parser.should_keep_alive() and not self.is_deaf,
            expects_continue=self.expect_100_continue,
        )
        self.requested(exchange)

    def _is_head_large(self) -> bool:
        size = sum(len(name) + len(value) for name, value in self.headers)
        return size + len(self.url) > MAX_HEAD_BYTES - 4 * len(self.headers)

    def on_body(self, body: bytes) -> None:
        self._barren_bytes = 0
        if self._body_left > 0:
            self._body_left -= len(body)
        exchange = self.cycle
        if exchange is not None and not exchange.is_answered and exchange.add_body(body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        if self.is_in_head or self.cycle is None:
            return  # a wish to upgrade
        self._barren_bytes = 0
        self.cycle.end_body()
