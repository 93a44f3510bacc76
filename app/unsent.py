"""An answer of any size, sent at the pace of its client; what waits to be taken is bounded. Of one process.

A query gives its turn back before its answer is sent, or whoever reads slowly would hold up others. Nothing
else counts the answers of clients that take none, and a hundred of 50 MB would be the end of the edge.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.errors import ApiError, Kind
from app.streaming import PIECE_BYTES, stream

MAX_BYTES = 256 * 1024 * 1024
OF_A_PROJECT = MAX_BYTES // 2
KEPT = MAX_BYTES // 4  # for projects of which nothing waits
RETRY_AFTER_SECONDS = 2
# Who takes less than this, when a minute is over, is cut off: an export waits as long as its client likes.
SLOWEST = 32 * 1024  # bytes a second
SLACK_SECONDS = 60.0

_bytes: Counter[str] = Counter()  # by project
_log = structlog.get_logger()


class Answer(Response):
    """A 200 for a project. Errors: ApiError 429 and 503 while too much waits for clients.

    They come when it is made, so that its maker may tell them in a form of its own; it is sent at once.
    """

    def __init__(self, project_id: str, content: bytes | str, headers: Mapping[str, str]) -> None:
        super().__init__(content, headers=headers)
        self._project_id = project_id
        if len(self.body) > PIECE_BYTES:
            _find_room(project_id, len(self.body))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.body) <= PIECE_BYTES:  # connections are bounded
            await super().__call__(scope, receive, send)
            return
        size = len(self.body)
        with _waits(self._project_id, size):
            try:
                async with asyncio.timeout(SLACK_SECONDS + size / SLOWEST):
                    await stream(receive, send, self.headers, _whole(bytes(self.body)))
            except TimeoutError:  # without its end: the server cuts the connection
                _log.warning("answer_taken_too_slowly", bytes=size)


async def _whole(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def _find_room(project_id: str, size: int) -> None:
    """Or ApiError. A project's first may be of any size: what a query may answer is bounded."""
    own, total = _bytes[project_id], _bytes.total()
    if own and own + size > OF_A_PROJECT:
        raise ApiError(
            Kind.RATE_LIMITED,
            f"{own:,} bytes of answers wait for this project's clients to take them; take those first.",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )
    if total + size > MAX_BYTES - KEPT if own else total > MAX_BYTES:
        raise ApiError(
            Kind.UNAVAILABLE,
            f"{total:,} bytes of answers wait for clients to take them; try again.",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )


@contextmanager
def _waits(project_id: str, size: int) -> Iterator[None]:
    """While the context lasts."""
    _bytes[project_id] += size
    try:
        yield
    finally:
        _bytes[project_id] -= size
        if not _bytes[project_id]:
            del _bytes[project_id]
