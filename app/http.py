"""What every HTTP handler shares: a bounded body, a request id, one shape of error, JSON answers.

Knows ASGI and the error catalogue; knows no Redis, no store and no event. The handlers (`track`,
`manage`, `read`, `probes`) use it; `app.main` puts it around them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import TypeVar
from urllib.parse import parse_qs

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.errors import ApiError, Kind, encode_error

BODY_DEADLINE_SECONDS = 20.0  # a whole body; a slower sender holds a slot that others need
DISCARD_BYTES = 256 * 1024  # of a body that nobody wants, read so that the connection can go on
DISCARD_SECONDS = 2.0
BODY_IS_READ = "eventbunker.body_is_read"  # in the scope
_ENCODER = msgspec.json.Encoder()

Headers = list[tuple[bytes, bytes]]
T = TypeVar("T")


def request_id(scope: Scope) -> str:
    """The 24 hex characters that `app.gate` gave this request."""
    return str(scope["eventbunker.request_id"])


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header called `name` (lower case), or None. Linear, but without building a dict."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def write_key(scope: Scope) -> str | None:
    """The presented WRITE key: the header, else `?write_key=` for callers that cannot set headers."""
    value = header(scope, b"x-eventbunker-write-key")
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


async def read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    """The request's body, refused as soon as it is known to exceed `limit_bytes`.

    A body that arrives in one piece is returned as it came, uncopied.
    Errors: ApiError 413 (limit and size seen in the detail; the excess is never read), 408 when the
        sender stalls, 400 when the client went away.
    """
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes, int(declared))
    message = await _receive(receive)
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        scope[BODY_IS_READ] = True
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes, len(body))
        return body
    try:
        async with asyncio.timeout(BODY_DEADLINE_SECONDS):
            joined = await _read_pieces(receive, body, limit_bytes)
    except TimeoutError:
        raise ApiError(
            Kind.REQUEST_TIMEOUT, f"The body did not arrive within {BODY_DEADLINE_SECONDS:.0f} seconds."
        ) from None
    scope[BODY_IS_READ] = True
    return joined


async def leave_connection_usable(error: ApiError, scope: Scope, receive: Receive) -> bool:
    """Before an answer that was decided without the body: read a small one away. True if none is left.

    An answer that overtakes its request's body makes the server close the connection, and the next request
    on it fails; a load balancer would report that as an error of ours. What is large, slow or waits for
    `100 Continue` is not read: then the answer must say `connection: close`.
    """
    if scope.get(BODY_IS_READ) or not scope["http_version"].startswith("1"):
        return True
    length = header(scope, b"content-length")
    if header(scope, b"transfer-encoding") is None and (length is None or length == b"0"):
        return True
    refused = error.kind in (Kind.BODY_TOO_LARGE, Kind.REQUEST_TIMEOUT)
    if refused or header(scope, b"expect") is not None or int(length or DISCARD_BYTES) > DISCARD_BYTES:
        return False
    try:
        async with asyncio.timeout(DISCARD_SECONDS):
            await read_body(scope, receive, DISCARD_BYTES)
    except (ApiError, TimeoutError):
        return False
    return True


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


async def _read_pieces(receive: Receive, first: bytes, limit_bytes: int) -> bytes:
    pieces, size = [first], len(first)
    while True:
        if size > limit_bytes:
            raise _too_large(limit_bytes, size)
        message = await _receive(receive)
        piece: bytes = message.get("body", b"")
        pieces.append(piece)
        size += len(piece)
        if not message.get("more_body", False):
            break
    if size > limit_bytes:
        raise _too_large(limit_bytes, size)
    return b"".join(pieces)


async def _receive(receive: Receive) -> Message:
    try:
        async with asyncio.timeout(BODY_DEADLINE_SECONDS):
            message = await receive()
    except TimeoutError:
        raise ApiError(
            Kind.REQUEST_TIMEOUT, f"No part of the body arrived for {BODY_DEADLINE_SECONDS:.0f} seconds."
        ) from None
    if message["type"] == "http.disconnect":
        raise ApiError(Kind.INVALID_BODY, "The client closed the connection before the body was complete.")
    return message


def _too_large(limit_bytes: int, seen_bytes: int) -> ApiError:
    return ApiError(
        Kind.BODY_TOO_LARGE,
        f"The body may have at most {limit_bytes} bytes; {seen_bytes} were announced or received.",
    )


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
    """`error_response` after the rest of the request, so that the connection can be used again."""
    is_usable = await leave_connection_usable(error, scope, receive)
    return error_response(error, scope, closes=not is_usable)


def error_response(error: ApiError, scope: Scope, *, closes: bool = False) -> Response:
    """The one shape of every error (api.md section 2)."""
    headers = {"cache-control": "no-store", **dict(error.headers)}
    if closes and scope["http_version"].startswith("1"):
        headers["connection"] = "close"
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(error.retry_after_seconds)
    return Response(
        encode_error(error, request_id(scope)),
        status_code=error.row.status,
        media_type="application/json",
        headers=headers,
    )


async def send_json(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """A complete answer in two ASGI messages, for endpoints that bypass Starlette's Response."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
