"""Does a child answer yet? One short attempt each, without a client library.

A start must not wait for imports. Used by `workers.dev` and `workers.edges`; knows no protocol beyond a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path

ATTEMPT_SECONDS = 1.0


async def http_ok(host: str, port: int, path: str, *, tls: bool = False) -> bool:
    """Whether GET `path` answers 200. TLS is not verified: this asks our own child on this machine."""
    context = None
    if tls:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(ATTEMPT_SECONDS):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            return b" 200" in await _first_line(reader, writer, request)
    return False


async def redis_ok(socket: Path) -> bool:
    """Whether Redis answers PING; while it loads its append-only file it does not."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(ATTEMPT_SECONDS):
            reader, writer = await asyncio.open_unix_connection(socket)
            return await _first_line(reader, writer, b"PING\r\n") == b"+PONG\r\n"
    return False


async def _first_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    try:
        writer.write(request)
        return await reader.readline()
    finally:
        writer.close()
