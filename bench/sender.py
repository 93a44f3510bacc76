"""A steady rate of events from a process of its own, and when each was answered.

    python -m bench.sender URL RATE SECONDS NAME OUTPUT      (the key in KEY)

Open loop: an event is due at its time whether or not earlier ones were answered, so a server that stalls is
not asked less. Plain sockets, since an HTTP library would cost more than the server. OUTPUT gets the moments
of the 200s on the monotonic clock, which all processes share, as C doubles; stdout one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from array import array
from collections import deque
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from bench.bodies import varied

CONNECTIONS = 64
TICK_SECONDS = 0.002
END_SECONDS = 15.0  # for what is under way
DISTINCT = 5000


class Connection(asyncio.Protocol):
    """One request at a time; tells the sender when it is free again."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._due = 0.0  # of the request that is under way; 0 when none is

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._sender.idle.append(self)

    def send(self, request: bytes, due: float) -> None:
        if self._transport is None:
            raise RuntimeError("not connected")
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank:
            return
        head = head.lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self._received = b""
        due, self._due = self._due, 0.0
        self._sender.answered(head.split(b" ", 2)[1] == b"200", due)
        if b"connection: close" not in head:
            self._sender.idle.append(self)
        elif self._transport is not None:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._sender.idle:
            self._sender.idle.remove(self)
        self._sender.lost(is_under_way=bool(self._due))


class Sender:
    """Keeps the rate. Everything that was sent is answered, refused or broken, and counted."""

    def __init__(self, url: str, key: str, rate: float, seconds: float, name: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._rate, self._seconds = rate, seconds
        self._requests = [_request(key, name, number) for number in range(min(DISTINCT, int(rate * seconds)))]
        self.idle: deque[Connection] = deque()
        self.moments = array("d")
        self.waits = array("d")
        self.sent = self.refused = self.broken = 0
        self._reconnects: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        await asyncio.gather(*(self._connect() for _ in range(CONNECTIONS)))
        began = time.monotonic()
        total = int(self._rate * self._seconds)
        while self.sent < total:
            now = time.monotonic()
            due = min(total, int((now - began) * self._rate) + 1)
            while self.sent < due and self.idle:
                self.idle.popleft().send(
                    self._requests[self.sent % len(self._requests)], began + self.sent / self._rate
                )
                self.sent += 1
            await asyncio.sleep(TICK_SECONDS)
        end = time.monotonic() + END_SECONDS
        while len(self.moments) + self.refused + self.broken < self.sent and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(TICK_SECONDS)

    def answered(self, is_good: bool, due: float) -> None:
        if not is_good:
            self.refused += 1
            return
        now = time.monotonic()
        self.moments.append(now)
        self.waits.append(now - due)

    def lost(self, *, is_under_way: bool) -> None:
        """A connection is gone: there will be another."""
        self.broken += is_under_way
        task = asyncio.ensure_future(self._connect())
        self._reconnects.add(task)
        task.add_done_callback(self._reconnects.discard)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: Connection(self), self._host, self._port)


def _request(key: str, name: str, number: int) -> bytes:
    event = {**json.loads(varied(random.Random(number))), "event_name": name}
    del event["timestamp"]  # it happens now
    body = json.dumps(event, separators=(",", ":")).encode()
    head = (
        f"POST /post HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"x-eventbunker-write-key: {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def main(url: str, rate: str, seconds: str, name: str, output: str) -> None:
    sender = Sender(url, os.environ["KEY"], float(rate), float(seconds), name)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(sender.run())
    Path(output).write_bytes(sender.moments.tobytes() + sender.waits.tobytes())
    print(json.dumps({"sent": sender.sent, "refused": sender.refused, "broken": sender.broken}))


if __name__ == "__main__":
    main(*sys.argv[1:])
