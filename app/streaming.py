"""An answer that is sent as it is made: its head, then pieces, at the pace of the client. Knows ASGI only.

Each piece is small, so that a server's deadline for a client that takes nothing is one for a piece, not for
megabytes. Nothing is made ahead here. When the client goes, making ends; when making fails, the connection is
cut: the client sees that the answer has no end, since no last chunk, or a reset of the stream, comes instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping

from starlette.types import Receive, Send

from app.http import discard

PIECE_BYTES = 64 * 1024


async def stream(
    receive: Receive, send: Send, headers: Mapping[str, str], pieces: AsyncGenerator[bytes, None]
) -> None:
    """Send a 200 with `headers` and all of `pieces`; returns early when the client went away.

    Call it when the request's body has been read. Errors: those of `pieces`, after the head was sent.
    """
    sending = asyncio.ensure_future(_send(send, headers, pieces))
    leaving = asyncio.ensure_future(discard(receive))
    try:
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
    finally:
        sending.cancel()
        leaving.cancel()
        await asyncio.gather(sending, leaving, return_exceptions=True)
        await pieces.aclose()


async def _send(send: Send, headers: Mapping[str, str], pieces: AsyncGenerator[bytes, None]) -> None:
    head = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    async for piece in pieces:
        for start in range(0, len(piece), PIECE_BYTES):
            body = piece[start : start + PIECE_BYTES]
            await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
