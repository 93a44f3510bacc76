"""A proxy before the store in which every question of a client is another one: by default one that takes longer
than any time limit.

It puts another SELECT into the place of the question's own and leaves all else as the edge sent it: settings,
address, the connection and its end. So a test can wait until a question runs, or have one of any size, whatever
the question was.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

SLEEPS = b"SELECT sleepEachRow(0.05) FROM numbers(4000) SETTINGS max_block_size = 1"
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, instead: bytes) -> None:
    """One request after the other, until who sends them is gone."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            found = _LENGTH.search(head)
            body = await reader.readexactly(int(found[1]) if found else 0)
            if b"workload=questions" in head:
                body, head = instead, _LENGTH.sub(b"content-length: %d" % len(instead), head)
            writer.write(head + body)
            await writer.drain()


async def _back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()


async def _end(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@contextlib.contextmanager
def slow_store(url: str, instead: bytes = SLEEPS) -> Iterator[str]:
    """The address of a proxy before the store at `url`, while the context lasts; `instead` takes each place."""
    address = urlsplit(url)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, to_store = await asyncio.open_connection(address.hostname, address.port)
        ways = [
            asyncio.ensure_future(_forward(reader, to_store, instead)),
            asyncio.ensure_future(_back(theirs, writer)),
        ]
        # Whichever side ends, the other one is told at once: that is what the test is about.
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            to_store.close()
            writer.close()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(serve, "127.0.0.1", 0), loop).result(10)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
