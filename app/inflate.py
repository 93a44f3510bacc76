"""Compressed bodies: `Content-Encoding` gzip, deflate and zstd, bounded while they are inflated.

A few kilobytes can claim to be gigabytes. Nothing here ever holds more than the limit and one piece, the
window of zstd included, and whoever inflates a lot lets others run in between.

Source: RFC 9110 section 8.4 (codings, and 415 with `Accept-Encoding`), RFC 9659 (the window of zstd).
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from typing import Protocol

from starlette.types import Receive, Scope

from app.errors import ApiError, Kind, Problem, invalid_body
from app.http import Grow, header, read_body

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ACCEPTED = ("gzip", "deflate", "zstd")
PIECE_BYTES = 64 * 1024  # of input or output at once: some tenths of a millisecond
PIECES_A_TURN = 8  # then others run
MAX_MEMBERS = 1000  # of a gzip or zstd body made of several; each costs something even if it is empty
WINDOW_LOG = 23  # 8 MiB, the most that RFC 9659 lets a sender ask for
MOST_COPIES = 3  # of the largest body that are held at once: as received, inflated, and in the window of zstd
GZIP_MAGIC = b"\x1f\x8b"  # no JSON begins so, but some clients do not say that they compress
_ALIASES = {"x-gzip": "gzip"}


class _Stream(Protocol):
    """One member of a body on its way out."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def read(self, data: bytes) -> bytes: ...
    def is_full(self) -> bool: ...


async def read_inflated(scope: Scope, receive: Receive, limit_bytes: int, grow: Grow | None = None) -> bytes:
    """The request's body, inflated where it is compressed; `limit_bytes` holds before and after.

    `grow` is told of the bytes received and, as they come out, of those inflated.
    Errors: as `read_body`; ApiError 415 for a coding that is not accepted, 400 for damaged data, 413.
    """
    coding = content_coding(scope)
    body = await read_body(scope, receive, limit_bytes, grow)
    if not coding and not body.startswith(GZIP_MAGIC):
        return body
    return await inflate(coding or "gzip", body, limit_bytes, grow)


def content_coding(scope: Scope) -> str:
    """The coding of the body, "" for none. Errors: ApiError 415."""
    if header(scope, b"content-encoding") is None:
        return ""
    values = [value for name, value in scope["headers"] if name == b"content-encoding"]
    names = [name.strip() for name in b",".join(values).decode("latin-1").lower().split(",")]
    codings = [_ALIASES.get(name, name) for name in names if name not in ("", "identity")]
    if not codings:
        return ""
    if len(codings) == 1 and codings[0] in ACCEPTED:
        return codings[0]
    stated = ", ".join(codings)[:60]
    what = "is not supported" if len(codings) == 1 else "are several codings"
    raise ApiError(
        Kind.UNSUPPORTED_ENCODING,
        f"Content-Encoding: {stated!r} {what}; use one of {', '.join(ACCEPTED)}, or none.",
        headers=(("accept-encoding", ", ".join(ACCEPTED)),),
    )


async def inflate(coding: str, body: bytes, limit_bytes: int, grow: Grow | None = None) -> bytes:
    """`body` inflated. Errors: ApiError 413 beyond `limit_bytes`, 400 where the data is damaged; `grow`'s."""
    copies = 2 if coding == "zstd" else 1  # its window holds what came out; zlib's is 32 KiB
    whole = bytearray()
    at = members = pieces = 0
    while at < len(body) or not members:
        members += 1
        if members > MAX_MEMBERS:
            raise _damaged(coding, f"it has more than {MAX_MEMBERS} parts")
        stream = _open(coding, body[at : at + 2])
        while not stream.eof:
            piece = b""
            if not stream.is_full():
                piece = body[at : at + PIECE_BYTES]
                if not piece:
                    raise _damaged(coding, "it ends too early" if body else "it is empty")
                at += len(piece)
            try:
                out = stream.read(piece)
            except (zlib.error, zstd.ZstdError) as error:
                raise _damaged(coding, _reason(error)) from None
            if len(whole) + len(out) > limit_bytes:
                raise ApiError(
                    Kind.BODY_TOO_LARGE,
                    f"The body may have at most {limit_bytes} bytes when it is inflated; it has more "
                    f"({len(body)} bytes were received).",
                )
            if grow is not None:
                grow(copies * len(out))
            whole += out
            pieces += 1
            if pieces % PIECES_A_TURN == 0:
                await asyncio.sleep(0)
        at -= len(stream.unused_data)
        if coding == "deflate" and at < len(body):
            raise _damaged(coding, f"{len(body) - at} bytes follow its end")
    return bytes(whole)


class _Zlib:
    """gzip (one member), or deflate."""

    def __init__(self, window_bits: int) -> None:
        self._inflater = zlib.decompressobj(window_bits)
        self._is_full = False

    @property
    def eof(self) -> bool:
        return self._inflater.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflater.unused_data

    def is_full(self) -> bool:
        """Is there still output of what it was given?"""
        return self._is_full

    def read(self, data: bytes) -> bytes:
        out = self._inflater.decompress(data or self._inflater.unconsumed_tail, PIECE_BYTES)
        # All of the input may be taken while some of the output, or just the end, is still inside.
        self._is_full = len(out) == PIECE_BYTES
        return out


class _Zstd:
    """One frame of zstd."""

    def __init__(self) -> None:
        self._inflater = zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
        )

    @property
    def eof(self) -> bool:
        return self._inflater.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflater.unused_data

    def is_full(self) -> bool:
        """Is there still output of what it was given?"""
        return not self._inflater.needs_input

    def read(self, data: bytes) -> bytes:
        return self._inflater.decompress(data, PIECE_BYTES)


def _open(coding: str, head: bytes) -> _Stream:
    if coding == "zstd":
        return _Zstd()
    if coding == "gzip":
        return _Zlib(zlib.MAX_WBITS | 16)
    # The name means zlib's format (RFC 9110 section 8.4.1.2), but some clients send the bare data.
    is_zlib = len(head) == 2 and head[0] & 0x0F == zlib.DEFLATED and int.from_bytes(head, "big") % 31 == 0
    return _Zlib(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)


def _reason(error: Exception) -> str:
    text = str(error)
    if "Frame requires too much memory" in text:
        return f"it needs a window of more than {1 << (WINDOW_LOG - 20)} MiB"
    return text.partition(": ")[2] or text


def _damaged(coding: str, reason: str) -> ApiError:
    return invalid_body([Problem("$", f"the body is not sound {coding}: {reason}"[:300])])
