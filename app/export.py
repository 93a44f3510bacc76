"""POST /v1/export: a straight line from the key to a file of any size.

Knows HTTP and the order of the steps. What is asked is `app.export_request`'s, how it is read from the store
`app.export_pages`', how it is written `app.export_writers`'. All that can be refused is refused before the
first byte; what fails later cuts the connection, so that no part of a file is taken for the whole.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from functools import partial

import structlog
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from app.aside import aside
from app.ask import Asker, Turn
from app.edge_clocks import EdgeClocks
from app.errors import ApiError
from app.export_pages import Bound, Pages, patiently, settle
from app.export_request import MEDIA_TYPES, Compression, Export, Format, read_export
from app.export_text import Row, UnknownField, rows_of
from app.export_writers import Writer, make_writer
from app.grant import Grant
from app.http import while_connected
from app.metrics import EXPORTED_EVENTS
from app.places import Places
from app.settings import Settings
from app.streaming import stream
from app.timestamp import format_timestamp

OF_ONE_KEY = 2
STEPS_SECONDS = 0.1
_log = structlog.get_logger(__name__)


class ExportHandler:
    """The endpoint."""

    def __init__(self, asker: Asker, clocks: EdgeClocks, settings: Settings) -> None:
        self._asker = asker
        self._clocks = clocks
        self._places = Places(settings.limits.max_concurrent_exports, OF_ONE_KEY, "exports")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Errors: ApiError, until the answer begins."""
        request = Request(scope, receive)
        grant = await self._asker.grant(request)
        now_ms = time.time_ns() // 1_000_000
        export = read_export(await self._asker.body(request), request.headers.get("accept", ""), now_ms)
        with self._places.take(grant.project_id, grant.api_key_id):
            file = await while_connected(receive, self._begin(request, grant, export, now_ms))
            try:
                await stream(receive, send, file.headers(), file.pieces())
            except (ApiError, UnknownField) as error:
                # Without its last piece the answer has no end: the server cuts the connection.
                _log.warning("export_broken_off", rows=file.rows, error=str(error)[:200])

    async def _begin(self, request: Request, grant: Grant, export: Export, now_ms: int) -> ExportFile:
        @contextlib.asynccontextmanager
        async def turns() -> AsyncIterator[Turn]:
            # The key again, each time: an export takes longer than a key may live on after its revocation.
            async with self._asker.turn(await self._asker.grant(request, again=True)) as turn:
                yield turn

        bound = await settle(turns, self._clocks.behind_ms, now_ms)
        return await open_file(Pages(turns, export, bound.at_ms), export, bound, grant.project_id)


async def open_file(pages: Pages, export: Export, bound: Bound, project_id: str) -> ExportFile:
    """Ask what must be known before the first byte. Errors: ApiError."""
    types: dict[str, set[str]] = {}
    if export.format is Format.PARQUET:
        types = await pages.types_of_values()
    elif export.format is Format.CSV:
        types = await pages.types()
    writer = await aside(project_id, make_writer, export, types)  # the first use loads a large library
    return ExportFile(pages, writer, export, bound, count=await pages.count(), project_id=project_id)


class ExportFile:
    """An export that has begun. `count`: how many events it has."""

    def __init__(
        self, pages: Pages, writer: Writer, export: Export, bound: Bound, *, count: int, project_id: str
    ) -> None:
        self.count = count
        self.rows = 0  # written so far
        self._pages = pages
        self._writer = writer
        self._export = export
        self._bound = bound
        self._project_id = project_id

    def headers(self) -> dict[str, str]:
        """Of the answer."""
        export = self._export
        day = format_timestamp(self._bound.at_ms)[:10]
        own = {"x-eventbunker-event-count": str(self.count)}
        if self._bound.is_settled:
            own["x-eventbunker-recorded-up-to"] = str(self._bound.at_ms)
        encoding = (
            {} if export.compression is Compression.NONE else {"content-encoding": export.compression.value}
        )
        return {
            "content-type": MEDIA_TYPES[export.format],
            "content-disposition": f'attachment; filename="events-{day}.{export.format.value}"',
            "cache-control": "no-store",
            "vary": "Accept",
            **encoding,
            **own,
            "access-control-expose-headers": ", ".join([*own, "content-disposition"]),
        }

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The file. Errors: ApiError, UnknownField; what came before is then no whole file."""
        yield self._writer.begin()
        async with contextlib.aclosing(self._pages.read()) as pages:
            async for lines in pages:
                steps = rows_of(lines)
                # In another thread: thousands of rows would hold up every event that is being tracked.
                write = partial(aside, self._project_id, self._write, steps)
                while (piece := await patiently(write)) is not None:
                    yield piece
        yield await patiently(partial(aside, self._project_id, self._writer.end))

    def _write(self, steps: Iterator[Sequence[Row]]) -> bytes | None:
        """The next piece, which may be empty; None at the end. As many steps as fit into STEPS_SECONDS: each
        call waits for its turn, but others wait for it too, and what is written is held in memory."""
        pieces: list[bytes] = []
        until = time.monotonic() + STEPS_SECONDS
        for rows in steps:
            pieces.append(self._writer.add(rows))
            self.rows += len(rows)
            EXPORTED_EVENTS.inc(len(rows))
            if time.monotonic() > until:
                break
        return b"".join(pieces) if pieces else None
