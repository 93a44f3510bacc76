"""A connection that can be bad: a byte proxy between one process and the Redis or store that it talks to.

`mood` is what it does at this moment; it is read for every chunk, so a fault begins and ends at once, also
on connections that exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TypeAlias, TypeVar

CHUNK = 65_536
SLOW_SECONDS = 0.25  # added to every chunk in each direction
PART_BYTES = 7  # of a chunk, before it is cut

T = TypeVar("T")
Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Address: TypeAlias = Path | int  # a unix socket, or a port of the loopback address


class Mood(enum.Enum):
    """What a link does with what passes."""

    GOOD = "good"
    CUT = "cut"  # every connection is closed, new ones at once
    DEAF = "deaf"  # requests arrive, answers are swallowed
    SLOW = "slow"
    CUT_REQUEST = "cut in the request"  # the first bytes of each request arrive, then it is closed
    CUT_ANSWER = "cut in the answer"  # the request is executed; its answer stops after some bytes
    ERROR = "error"  # HTTP: an exception without doing anything
    ERROR_AFTER = "error after success"  # HTTP: an exception after having done it


class Link:
    """One listening address and where it leads. Runs in the loop of `Links`."""

    def __init__(self, upstream: Address) -> None:
        self._upstream = upstream
        self._open: set[asyncio.StreamWriter] = set()
        self.mood = Mood.GOOD
        self.code = 241  # of ERROR: as in ClickHouse's list

    def become(self, mood: Mood) -> None:
        """In the loop: change the mood. Connections that a new one would not have are closed."""
        self.mood = mood
        if mood in (Mood.CUT, Mood.ERROR, Mood.ERROR_AFTER, Mood.GOOD):
            for writer in list(self._open):
                writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either end closes it."""
        if self.mood is Mood.CUT:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            upstream = await connect(self._upstream)
        except OSError:
            writer.transport.abort()
            self._open.discard(writer)
            return
        self._open.add(upstream[1])
        try:
            if self.mood in (Mood.ERROR, Mood.ERROR_AFTER):
                await self._refuse((reader, writer), upstream)
            else:
                await self._pass((reader, writer), upstream)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for one in (writer, upstream[1]):
                self._open.discard(one)
                one.transport.abort()

    async def _pass(self, client: Streams, upstream: Streams) -> None:
        directions = (
            asyncio.create_task(self._pump(client[0], upstream[1], asks=True)),
            asyncio.create_task(self._pump(upstream[0], client[1], asks=False)),
        )
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in directions:
                task.cancel()
            await asyncio.gather(*directions, return_exceptions=True)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, asks: bool) -> None:
        while data := await source.read(CHUNK):
            mood = self.mood
            if mood is Mood.SLOW:
                await asyncio.sleep(SLOW_SECONDS)
            elif mood is Mood.DEAF and not asks:
                continue
            elif mood is (Mood.CUT_REQUEST if asks else Mood.CUT_ANSWER):
                sink.write(data[: max(PART_BYTES, len(data) // 2)] if asks else data[:PART_BYTES])
                await sink.drain()
                return
            sink.write(data)
            await sink.drain()

    async def _refuse(self, client: Streams, upstream: Streams) -> None:
        """HTTP/1.1 with lengths, as our one client speaks it."""
        while True:
            request = await read_message(client[0])
            if self.mood is Mood.ERROR_AFTER:
                upstream[1].write(request)
                await read_message(upstream[0])
            body = f"Code: {self.code}. DB::Exception: chaos".encode()
            head = f"HTTP/1.1 500 Internal Server Error\r\nX-ClickHouse-Exception-Code: {self.code}\r\n"
            client[1].write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await client[1].drain()


async def connect(address: Address) -> Streams:
    """Errors: OSError."""
    if isinstance(address, Path):
        return await asyncio.open_unix_connection(str(address), limit=1 << 20)
    return await asyncio.open_connection("127.0.0.1", address, limit=1 << 20)


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """One HTTP message. Errors: IncompleteReadError at the connection's end."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    if b"transfer-encoding: chunked" in lines:
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            body += await reader.readuntil(b"\r\n")
        return head + body
    length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), 0)
    return head + await reader.readexactly(length)


class Links:
    """Every link of a topology, in one thread with one loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="links")
        self._thread.start()
        self._servers: list[asyncio.Server] = []

    def open(self, upstream: Address, listen: Path | None = None) -> tuple[Link, Address]:
        """A new link and where it listens: on `listen`, or on a free port."""
        link = Link(upstream)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await link.serve(reader, writer)

        async def start() -> asyncio.Server:
            if listen is not None:
                return await asyncio.start_unix_server(serve, str(listen), limit=1 << 24)
            return await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 24)

        server = self._run(start())
        self._servers.append(server)
        return link, listen or int(server.sockets[0].getsockname()[1])

    def become(self, link: Link, mood: Mood) -> None:
        """Change the mood of a link, now."""
        self._call(lambda: link.become(mood))

    def close(self) -> None:
        """End every connection, and the thread."""

        async def end() -> None:
            for server in self._servers:
                server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)  # a closed transport lets go of its socket in the loop's next round

        self._run(end())
        self._call(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _call(self, change: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(change)

    def _run(self, work: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)
