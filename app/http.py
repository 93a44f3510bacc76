"""What every HTTP handler shares: a bounded body, a request id, one shape of error, JSON answers.

Knows ASGI and the error catalogue; knows no Redis, no store and no event. The handlers (`track`,
`manage`, `read`, `probes`) use it; `app.main` puts it around them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from types import CoroutineType
from typing import TypeVar
from urllib.parse import parse_qs

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.errors import ApiError, Kind, encode_error
from app.first_step import go_on

BODY_DEADLINE_SECONDS = 30.0  # a whole body, where `app.gate` says nothing else
DISCARD_BYTES = 256 * 1024  # of a body that nobody wants, read so that the connection can go on
DISCARD_SECONDS = 2.0
BODY_IS_READ = "eventbunker.body_is_read"  # in the scope
HEADERS = "eventbunker.headers"  # in the scope
REQUEST_ID = "eventbunker.request_id"  # in the scope
BODY_SECONDS = "eventbunker.body_seconds"  # in the scope: `server.read_timeout`
WRITE_KEY = b"x-eventbunker-write-key"
_ENCODER = msgspec.json.Encoder()

Headers = list[tuple[bytes, bytes]]
Reply = Callable[[int, bytes, Headers], None]  # a whole answer: status, body, headers. It never raises
Grow = Callable[[int], None]  # told of bytes before they are kept; raises ApiError where there is no room
log = structlog.get_logger()
T = TypeVar("T")


def request_id(scope: Scope) -> str:
    """The 24 hex characters that `app.gate` gave this request."""
    return str(scope[REQUEST_ID])


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header called `name` (lower case), or None."""
    found: dict[bytes, bytes] | None = scope.get(HEADERS)
    return (headers(scope) if found is None else found).get(name)


def headers(scope: Scope) -> dict[bytes, bytes]:
    """The first header of each name (lower case)."""
    found: dict[bytes, bytes] | None = scope.get(HEADERS)
    if found is None:  # once for each request: browsers send fifteen, and nine are asked for
        found = scope[HEADERS] = dict(reversed(scope["headers"]))
    return found


def write_key(scope: Scope) -> str | None:
    """The presented WRITE key: the header, else `?write_key=` for callers that cannot set headers."""
    value = header(scope, WRITE_KEY)
    if value is not None:
        return value.decode("latin-1")
    values = query_values(scope, "write_key")
    return values[0] if values else None


def query_values(scope: Scope, name: str) -> list[str]:
    """The values of a parameter of the address; none where the address cannot be read."""
    query = scope["query_string"]
    if not query or name.encode() + b"=" not in query:  # the hot path has no parameters
        return []
    try:
        return parse_qs(query.decode("latin-1"), keep_blank_values=True, max_num_fields=20).get(name, [])
    except ValueError:
        return []


async def read_body(scope: Scope, receive: Receive, limit_bytes: int, grow: Grow | None = None) -> bytes:
    """The request's body, refused as soon as it is known to exceed `limit_bytes`.

    A body that arrives in one piece is returned as it came, uncopied.
    Errors: ApiError 413 (limit and size seen in the detail; the excess is never read), 408 when the
        sender stalls, 400 when the client went away; those of `grow`, which is told of each piece.
    """
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit_bytes:
        raise body_too_large(limit_bytes, int(declared))
    first = b""
    arriving: Awaitable[Message] = receive()
    while isinstance(arriving, CoroutineType):
        try:
            arriving = go_on(arriving, arriving.send(None))
        except StopIteration as end:  # it did not have to wait, and needs no deadline
            message: Message = end.value
            piece: bytes = message.get("body", b"")
            if message["type"] != "http.request" or (first and piece) or len(piece) > limit_bytes:
                arriving = _at_once(message)
                break
            if grow is not None and piece:
                grow(len(piece))
            first = first or piece
            if not message.get("more_body"):
                scope[BODY_IS_READ] = True
                return first
            arriving = receive()  # Hypercorn tells the end in a message of its own
    seconds = float(scope.get(BODY_SECONDS, BODY_DEADLINE_SECONDS))
    try:
        async with asyncio.timeout(seconds):
            body = await _read_pieces(scope, first, await arriving, receive, limit_bytes, grow=grow)
    except TimeoutError:
        raise body_too_late(seconds) from None
    scope[BODY_IS_READ] = True
    return body


def has_unread_body(scope: Scope) -> bool:
    """May a part of the request's body still be on its way?"""
    if scope.get(BODY_IS_READ):
        return False
    if not scope["http_version"].startswith("1"):
        return True  # the head does not tell
    return header(scope, b"transfer-encoding") is not None or (
        header(scope, b"content-length") not in (None, b"0")
    )


async def read_away(error: ApiError, scope: Scope, receive: Receive) -> None:
    """Before an answer that was decided without the body: read a small one away.

    An answer that overtakes its request's body costs the connection (`app.gate` says so in the answer), and
    a load balancer would report the next request on it as an error of ours. What is large, slow or waits
    for `100 Continue` is not read.
    """
    if error.kind in (Kind.BODY_TOO_LARGE, Kind.REQUEST_TIMEOUT) or not has_unread_body(scope):
        return
    if header(scope, b"expect") is not None:
        return
    with contextlib.suppress(ApiError, TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            await read_body(scope, receive, DISCARD_BYTES)


async def discard(receive: Receive) -> None:
    """Take what still arrives of a request, until its end.

    Hypercorn queues at most ten pieces of a body and then waits, also with the news that the request is
    over: a handler that answers without having read them all would wait with it, for ever.
    """
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(receive: Receive, work: Coroutine[object, object, T]) -> T:
    """The result of `work`, which is cancelled when the client goes away: nobody waits for it any more.

    Call it when the body has been read: from then on the only message to come is the client's leaving.
    Errors: those of `work`; ApiError when the client left (which it will not see).
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(receive())
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
    finally:
        task.cancel()
        leaving.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)
    raise ApiError(Kind.INVALID_BODY, "The client closed the connection before the answer.")


async def _at_once(message: Message) -> Message:
    return message


async def _read_pieces(
    scope: Scope, first: bytes, message: Message, receive: Receive, limit_bytes: int, *, grow: Grow | None
) -> bytes:
    joined = bytearray()  # no list: a megabyte in chunks of one byte would take fifty
    while True:
        if message["type"] == "http.disconnect":
            scope[BODY_IS_READ] = True  # nothing follows
            raise body_cut_short()
        piece: bytes = message.get("body", b"")
        size = len(first) + len(joined) + len(piece)
        if size > limit_bytes:
            raise body_too_large(limit_bytes, size)
        if grow is not None:
            grow(len(piece))
        if first:
            joined += piece
        else:
            first = piece
        if not message.get("more_body", False):
            return first + joined if joined else first
        message = await receive()


def body_too_large(limit_bytes: int, seen_bytes: int) -> ApiError:
    """413: what was announced or has come is more than may."""
    return ApiError(
        Kind.BODY_TOO_LARGE,
        f"The body may have at most {limit_bytes} bytes; {seen_bytes} were announced or received.",
    )


def body_too_late(seconds: float) -> ApiError:
    """408: the sender stalls."""
    return ApiError(
        Kind.REQUEST_TIMEOUT, f"The body did not arrive within {seconds:g} seconds; send it faster."
    )


def body_cut_short() -> ApiError:
    """400, which nobody will see."""
    return ApiError(Kind.INVALID_BODY, "The client left before the body was complete.")


async def read_json_body(request: Request, limit_bytes: int) -> bytes:
    """`read_body` for a Starlette request; refuses content encodings like every other endpoint."""
    refuse_encoding(request.scope)
    return await read_body(request.scope, request.receive, limit_bytes)


def refuse_encoding(scope: Scope) -> None:
    """Raise 415 for a compressed body: nothing here inflates."""
    encoding = header(scope, b"content-encoding")
    if encoding is not None and encoding.strip().lower() not in (b"", b"identity"):
        name = encoding.decode("latin-1")[:40]
        raise ApiError(
            Kind.UNSUPPORTED_ENCODING,
            f"Content-Encoding {name!r} is not supported; send the body uncompressed.",
        )


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`value` encoded by msgspec, never stored by caches."""
    return Response(
        _ENCODER.encode(value),
        status_code=status,
        media_type="application/json",
        headers={"cache-control": "no-store", **(headers or {})},
    )


async def answer_error(error: ApiError, scope: Scope, receive: Receive) -> Response:
    """`error_response` after the rest of a small request, so that the connection can be used again."""
    # The client may take its time, and an error keeps every frame that it came through, with what that had in
    # hand: fifty megabytes of an answer that was refused for want of room.
    error.__traceback__ = error.__context__ = None
    await read_away(error, scope, receive)
    return error_response(error, scope)


def error_response(error: ApiError, scope: Scope) -> Response:
    """The one shape of every error (api.md section 2)."""
    headers = {"cache-control": "no-store", **dict(error.headers)}
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(error.retry_after_seconds)
    return Response(
        encode_error(error, request_id(scope)),
        status_code=error.row.status,
        media_type="application/json",
        headers=headers,
    )


def answer_bug(error: Exception, scope: Scope) -> Response:
    """A bug of ours: the client learns that it is one, the log learns the rest."""
    log.error("unhandled exception", path=scope["path"], error=type(error).__name__)
    return error_response(ApiError(Kind.INTERNAL, "This is a bug of the server, not of the request."), scope)


async def send_json(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """A complete answer in two ASGI messages, for endpoints that bypass Starlette's Response."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
