"""The head of a request over HTTP/1.1 as h11 has read it: checked once more, and as ASGI wants it.

For `workers.edge_http1`. One walk through the headers does it all: h11's own sequence of them costs a call of
Python for each header and each look.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import h11

from workers.edge_limits import MAX_HEAD_BYTES, MAX_HEADERS

HAS_LENGTH, HAS_CODING = 1, 2
END_OF_HEAD = re.compile(rb"\n\r?\n")
MOST_BYTES = MAX_HEAD_BYTES + 4096  # of a head with its colons and line ends


def is_too_large(data: bytes) -> bool:
    """Does a head not end in time? h11 would look at each of 100,000 headers before we can."""
    return len(data) > MOST_BYTES and not END_OF_HEAD.search(data, 0, MOST_BYTES)


class Head:
    """Errors: h11.RemoteProtocolError, with the status to answer."""

    __slots__ = ("headers", "keep_alive", "request")

    def __init__(self, request: h11.Request) -> None:
        self.request = request
        self.headers: list[tuple[bytes, bytes]] = []
        version = request.http_version
        self.keep_alive = version == b"1.1" and request.method != b"CONNECT"  # what follows is not HTTP
        size = len(request.target)
        framing = 0
        for raw_name, value in request.headers.raw_items():
            name = raw_name.lower()
            size += len(name) + len(value)
            if name == b"upgrade":
                continue  # not offered
            if name == b"connection":
                self.keep_alive = self.keep_alive and b"close" not in value.lower()
            elif name == b"content-length":
                framing |= HAS_LENGTH
            elif name == b"transfer-encoding":
                framing |= HAS_CODING
            self.headers.append((name, value))
        if len(request.headers) > MAX_HEADERS or size > MAX_HEAD_BYTES:
            raise h11.RemoteProtocolError("too many headers", error_status_hint=431)
        if version not in (b"1.0", b"1.1") and not self.is_http2:
            raise h11.RemoteProtocolError("unknown version")
        # Two lengths are how a request is smuggled past a proxy that believes the other one.
        if framing == HAS_LENGTH | HAS_CODING:
            raise h11.RemoteProtocolError("both Transfer-Encoding and Content-Length")

    @property
    def is_http2(self) -> bool:
        """The first line of HTTP/2, from a client that knows that we speak it."""
        request = self.request
        return request.method == b"PRI" and request.target == b"*" and request.http_version == b"2.0"

    def scope(self) -> dict[str, Any]:
        """What ASGI's scope has of the head."""
        request = self.request
        raw_path, _, query = request.target.partition(b"?")
        path = raw_path.decode("ascii")  # h11 takes nothing else
        return {
            "http_version": request.http_version.decode("ascii"),
            "method": request.method.decode("ascii").upper(),
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self.headers,
        }
