"""The outermost layer: a request id, CORS, and a bound on requests in flight. Pure ASGI.

It stands outside Starlette so that every answer carries CORS headers, also a 404, a 413 and a 500:
without them a browser's script sees "status 0" and cannot read `Retry-After`.
Starlette's CORSMiddleware is not used because it adds headers only when `Origin` is sent and answers
preflights in plain text; api.md section 2 wants both always and in JSON.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import metrics
from app.errors import ApiError, Kind, encode_error
from app.http import (
    BODY_SECONDS,
    REQUEST_ID,
    Headers,
    Reply,
    answer_bug,
    discard,
    error_response,
    has_unread_body,
    header,
)
from app.settings import Settings

EXPOSED = b"Retry-After, x-request-id"
METHODS = b"GET, HEAD, POST, OPTIONS"

# Scope, the whole body, whom to give the answer -> was it taken? As `Gate.begin`.
Begin = Callable[[Scope, bytes | bytearray, Reply], bool]


class RequestIds:
    """24 hex characters: Unix milliseconds (12), this process (6), a counter (6).

    Sortable by time; unique because the counter never repeats within a millisecond and processes draw
    their part at random. The counter starts at random too, so that a restarted process that drew the
    same part does not repeat ids of the same millisecond.
    """

    def __init__(self) -> None:
        self._process = int.from_bytes(os.urandom(3), "big") << 24
        self._counter = int.from_bytes(os.urandom(3), "big")

    def next(self) -> str:
        """A new id. A clock that stands before 1970 counts as 1970: the id keeps its form."""
        self._counter = (self._counter + 1) & 0xFFFFFF
        milliseconds = max(0, time.time_ns()) // 1_000_000
        return (milliseconds << 48 | self._process | self._counter).to_bytes(12, "big").hex()


class AnswerHeaders:
    """The headers that every answer carries: its request id, and CORS."""

    def __init__(self, settings: Settings) -> None:
        self._ids = RequestIds()
        origins = settings.cors.allowed_origins
        self._origins = frozenset(origin.encode() for origin in origins)
        self._always: Headers = [(b"access-control-expose-headers", EXPOSED)]
        self._any_origin = "*" in origins
        self._always.append(
            (b"access-control-allow-origin", b"*") if self._any_origin else (b"vary", b"Origin")
        )

    def make(self, origin: bytes | None) -> tuple[str, Headers]:
        """A new request id, and the headers of an answer to a page of `origin`."""
        identity = self._ids.next()
        headers = [(b"x-request-id", identity.encode()), *self._always]
        if not self._any_origin and origin is not None and origin in self._origins:
            headers.append((b"access-control-allow-origin", origin))
        return identity, headers

    def refuse(self, error: ApiError) -> tuple[Headers, bytes]:
        """Headers and body of an answer to what is no request: for servers, whose parser refuses it."""
        identity, headers = self.make(None)
        body = encode_error(error, identity)
        own = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        return [*own, (b"cache-control", b"no-store"), *headers], body


class Gate:
    """The ASGI app that servers run; `inner` is the Starlette app.

    `direct`: endpoints by the path to which they are POSTed, that this calls itself. Starlette has them among
    its routes all the same, and tests/test_direct.py holds that both ways lead to the same; but its router
    and its two layers for errors, of which these endpoints need none, took 8 of 23 us.
    `at_once`: what can take a request without a task, by the same path.
    """

    def __init__(
        self,
        inner: ASGIApp,
        settings: Settings,
        direct: Mapping[str, ASGIApp] = MappingProxyType({}),
        at_once: Mapping[str, Begin] = MappingProxyType({}),
    ) -> None:
        self._inner = inner
        self._direct = direct
        self._at_once = at_once
        self._answer_headers = AnswerHeaders(settings)
        self._in_flight = 0
        self._max_in_flight = settings.limits.max_concurrent_requests
        self._body_seconds = settings.server.read_timeout
        self._max_age = str(settings.cors.max_age).encode()
        self._discarding: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                return  # never accepted: our edge does not even offer them
            await self._inner(scope, receive, send)
            return
        identity, extra = self._answer_headers.make(header(scope, b"origin"))
        scope[REQUEST_ID] = identity
        scope[BODY_SECONDS] = self._body_seconds

        has_begun = False

        def send_with_headers(message: Message) -> Awaitable[None]:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                message["headers"] = [*message["headers"], *extra]
                if has_unread_body(scope):
                    self._discard(receive)
                    if scope["http_version"].startswith("1"):
                        message["headers"].append((b"connection", b"close"))
            return send(message)

        if scope["method"] == "OPTIONS":
            await self._preflight(scope, send_with_headers)
            return
        endpoint = self._direct.get(scope["path"]) if scope["method"] == "POST" else None
        if self._in_flight >= self._max_in_flight:
            error = ApiError(
                Kind.UNAVAILABLE, "Too many requests are in flight; try again.", retry_after_seconds=1
            )
            if endpoint is not None:
                metrics.REQUESTS.labels(scope["path"], str(error.row.status)).inc()
                metrics.EVENTS_REJECTED.labels(error.row.code).inc()
            await error_response(error, scope)(scope, receive, send_with_headers)
            return
        self._in_flight += 1
        try:
            await (endpoint or self._inner)(scope, receive, send_with_headers)
        except Exception as error:  # as Starlette does it; it has done so for its own
            if endpoint is not None:
                metrics.REQUESTS.labels(scope["path"], "500").inc()
            if not has_begun:
                await answer_bug(error, scope)(scope, receive, send_with_headers)
            raise
        finally:
            self._in_flight -= 1

    def begin(self, scope: Scope, body: bytes | bytearray, reply: Reply) -> bool:
        """Take a request whose `body` is whole, without a task: a seventh of what the usual event cost was
        being a coroutine that waits. True: `reply` is called once, in a later turn of the loop. False:
        nothing has happened, and `__call__` is the way, for whatever is not usual.

        For our servers (`workers.edge_exchange`); ASGI has no word for it. tests/test_at_once.py holds that
        both ways lead to the same answer.
        """
        if scope["method"] != "POST" or self._in_flight >= self._max_in_flight:
            return False
        begin = self._at_once.get(scope["path"])
        if begin is None:
            return False
        identity, extra = self._answer_headers.make(header(scope, b"origin"))
        scope[REQUEST_ID] = identity

        def answer(status: int, body: bytes, headers: Headers) -> None:
            self._in_flight -= 1
            reply(status, body, [*headers, *extra])

        if not begin(scope, body, answer):
            return False
        self._in_flight += 1
        return True

    def _discard(self, receive: Receive) -> None:
        task = asyncio.ensure_future(discard(receive))
        self._discarding.add(task)
        task.add_done_callback(self._discarding.discard)

    async def _preflight(self, scope: Scope, send: Send) -> None:
        # Mirrored, because a literal * would not cover Authorization.
        asked = header(scope, b"access-control-request-headers")
        headers = [
            (b"access-control-allow-methods", METHODS),
            (b"access-control-max-age", self._max_age),
            (b"vary", b"Access-Control-Request-Headers"),
        ]
        if asked:
            headers.append((b"access-control-allow-headers", asked))
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
