"""A Redis that loses replies: a unix-socket proxy that runs a chosen command and swallows its answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path


class LosingProxy:
    """Between a client and a real Redis. `swallow` commands that hold `marker` lose their reply."""

    def __init__(self, upstream: Path, marker: bytes) -> None:
        self._upstream = upstream
        self._marker = marker
        self.swallow = 0
        self.swallowed = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection, until either end closes it or a reply is lost."""
        from_redis, to_redis = await asyncio.open_unix_connection(str(self._upstream))
        try:
            while data := await reader.read(1 << 20):
                to_redis.write(data)
                loses = self.swallow > 0 and self._marker in data
                reply = await from_redis.read(1 << 20)  # so Redis has executed it
                if loses:
                    self.swallow -= 1
                    self.swallowed += 1
                    return
                writer.write(reply)
                await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()
            to_redis.close()


@contextlib.asynccontextmanager
async def losing_proxy(
    upstream: Path, socket: Path, marker: bytes = b"EVALSHA"
) -> AsyncIterator[LosingProxy]:
    """A proxy that listens on `socket`."""
    proxy = LosingProxy(upstream, marker)
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        with contextlib.suppress(asyncio.CancelledError):
            await proxy.serve(reader, writer)

    server = await asyncio.start_unix_server(handle, str(socket))
    try:
        yield proxy
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # a closed transport lets go of its socket in the loop's next round
