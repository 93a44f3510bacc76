"""GET /v1/tail: events as they arrive, as server-sent events. From the key to a connection that stays open.

The key stands in a header, never in the address, which proxies log: so browsers read it with fetch, not with
EventSource (docs/tail.md shows how). A tail ends within a second of its key's end, and before its edge does.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app import redis_client
from app.ask import Asker
from app.errors import ApiError, Kind
from app.match import matcher
from app.places import Places
from app.redis_client import UNREACHABLE
from app.settings import Settings
from app.streaming import stream
from app.tail_frames import End, heartbeat, named, opening
from app.tail_listener import Listener
from app.tail_request import read_tail
from app.tombstones import Unreadable

if TYPE_CHECKING:
    from app.tail_reader import TailReader

OF_ONE_KEY = 10
READ_SECONDS = 5.0  # for Redis to answer; longer than the reader blocks
SPARE_CONNECTIONS = 4
LAST_WORDS_SECONDS = 1.0  # for a client to take the news that its tail ends
LOOK_SECONDS = 0.5  # between two looks at the key, and at whether this edge leaves
HEARTBEAT_SECONDS = 15.0  # less than the idle time-out of any proxy
_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # nginx would collect a page of events first
}


class TailHandler:
    """The endpoint, and the one reader behind it. `leaves`: does this edge end?"""

    def __init__(self, asker: Asker, settings: Settings, leaves: Callable[[], bool]) -> None:
        self._asker = asker
        self._settings = settings
        self._leaves = leaves
        self._places = Places(settings.limits.max_concurrent_tails, OF_ONE_KEY, "tails")
        # Connections of their own, one for each partition: a blocking read must not take one of the pool's.
        self._redis = redis_client.connect(
            settings,
            timeout_seconds=READ_SECONDS,
            max_connections=settings.producer.shards + SPARE_CONNECTIONS,
        )
        self._reader: TailReader | None = None

    async def close(self) -> None:
        """Stop reading."""
        if self._reader is not None:
            await self._reader.close()
        await self._redis.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Errors: ApiError, until the answer begins."""
        request = Request(scope, receive)
        grant = await self._asker.grant(request)
        wanted = read_tail(request.query_params.multi_items(), request.headers.get("last-event-id"))
        if scope["method"] == "HEAD":
            await Response(headers=_HEADERS)(scope, receive, send)
            return
        listener = Listener(grant.project_id, grant.customer_identifier, matcher(wanted.filters))
        with self._places.take(grant.project_id, grant.api_key_id):
            reader = self._reader
            if reader is None:
                made = await asyncio.to_thread(self._make_reader)
                reader = self._reader = self._reader or made  # another request may have been faster
            try:
                with _told():
                    await reader.listen(listener, wanted.after)
                await self._talk(request, listener, reader, receive, send)
            finally:
                reader.leave(listener)

    async def _talk(
        self, request: Request, listener: Listener, reader: TailReader, receive: Receive, send: Send
    ) -> None:
        """Until the client, the key or this edge leaves. A client that takes nothing does not delay that."""
        talking = asyncio.create_task(stream(receive, send, _HEADERS, self._messages(listener, reader)))
        watching = asyncio.create_task(self._accompany(request, listener, reader))
        try:
            done, _ = await asyncio.wait({talking, watching}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({talking}, timeout=LAST_WORDS_SECONDS)
            for task in done:
                task.result()  # a bug of ours is told, not taken for the client's leaving
        finally:
            talking.cancel()
            watching.cancel()
            await asyncio.gather(talking, watching, return_exceptions=True)

    async def _accompany(self, request: Request, listener: Listener, reader: TailReader) -> None:
        async with asyncio.TaskGroup() as group:
            catching_up = group.create_task(reader.catch_up(listener))
            await self._watch(request, listener)
            catching_up.cancel()

    async def _watch(self, request: Request, listener: Listener) -> None:
        while not listener.ends:
            await asyncio.sleep(LOOK_SECONDS)
            if self._leaves():
                listener.end("edge_leaves")
                return
            try:
                await self._asker.grant(request, again=True)
            except ApiError as error:
                if error.row.status == 401:
                    listener.end("key_ended")

    async def _messages(self, listener: Listener, reader: TailReader) -> AsyncGenerator[bytes, None]:
        yield opening(time.time_ns() // 1_000_000, listener.positions)
        while True:
            found = await listener.take(HEARTBEAT_SECONDS)
            yield b"".join(found) or (b"" if listener.ends else heartbeat(reader.positions(listener)))
            if listener.ends:
                yield named(End(listener.ends))
                return

    def _make_reader(self) -> TailReader:
        """In a thread: it loads a table of user agents, which an edge without tails does without."""
        from app.enrich import Geography, GeographyError  # noqa: PLC0415
        from app.tail_reader import TailReader  # noqa: PLC0415

        def open_geography() -> Geography:
            try:
                return Geography(str(self._settings.vars.get("GEOIP_DB", "")))
            except GeographyError:  # the drain says so, and does not start
                return Geography("")

        producer = self._settings.producer
        return TailReader(
            *(self._redis, producer.queue, producer.shards, open_geography),
            retention_days=self._settings.store.retention_days,
        )


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (*UNREACHABLE, Unreadable):
        raise ApiError(
            Kind.UNAVAILABLE, "The stream cannot be read now; try again.", retry_after_seconds=2
        ) from None
