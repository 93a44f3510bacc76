"""A real HTTP/3 client: aioquic's, with what a test needs to ask, to misbehave, and to see."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration

SECONDS = 15.0


@dataclass
class Answer:
    """What came on one stream; `reset` is the code of one that was reset."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    reset: int | None = None

    @property
    def status(self) -> int:
        return int(self.headers.get(":status", 0))

    def json(self) -> Any:
        return json.loads(self.body)


class Http3Client(QuicConnectionProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.h3 = H3Connection(self._quic)
        self.answers: dict[int, Answer] = {}
        self.ended: dict[int, asyncio.Event] = {}
        self.terminated: events.ConnectionTerminated | None = None
        self.is_over = asyncio.Event()

    @property
    def quic(self) -> Any:
        return self._quic

    def quic_event_received(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.ConnectionTerminated):
            self.terminated = event
            self.is_over.set()
            for one in self.ended.values():
                one.set()
        elif isinstance(event, events.StreamReset) and event.stream_id in self.ended:
            self.answers[event.stream_id].reset = event.error_code
            self.ended[event.stream_id].set()
        for happened in self.h3.handle_event(event):
            if not isinstance(happened, HeadersReceived | DataReceived):
                continue
            answer = self.answers[happened.stream_id]
            if isinstance(happened, HeadersReceived):
                answer.headers |= {name.decode(): value.decode() for name, value in happened.headers}
            else:
                answer.body += happened.data
            if happened.stream_ended:
                self.ended[happened.stream_id].set()

    def begin(self, method: str, path: str, *, ends: bool = False, **headers: str) -> int:
        """Send a head; the stream's id."""
        stream_id = self.open()
        head = [(b":method", method.encode()), (b":scheme", b"https"), (b":authority", b"127.0.0.1")]
        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.h3.send_headers(stream_id, [*head, (b":path", path.encode()), *named], end_stream=ends)
        self.transmit()
        return stream_id

    def open(self) -> int:
        """A stream on which nothing was sent yet."""
        stream_id = self._quic.get_next_available_stream_id()
        self.answers[stream_id], self.ended[stream_id] = Answer(), asyncio.Event()
        return stream_id

    def send(self, stream_id: int, data: bytes, *, ends: bool = True) -> None:
        self.h3.send_data(stream_id, data, ends)
        self.transmit()

    async def answer(self, stream_id: int) -> Answer:
        """The whole of it, or what had come when the stream or the connection ended."""
        async with asyncio.timeout(SECONDS):
            await self.ended[stream_id].wait()
        assert self.terminated is None, self.terminated
        return self.answers[stream_id]

    async def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        stream_id = self.begin(method, path, ends=body is None, **headers)
        if body is not None:
            self.send(stream_id, body)
        return await self.answer(stream_id)

    async def until_terminated(self) -> events.ConnectionTerminated:
        """How the server ended the connection."""
        async with asyncio.timeout(SECONDS):
            await self.is_over.wait()
        assert self.terminated is not None
        return self.terminated


@contextlib.asynccontextmanager
async def http3(port: int, certificate: Path, **quic: Any) -> AsyncIterator[Http3Client]:
    """A connection to 127.0.0.1, verified against `certificate`."""
    configuration = QuicConfiguration(alpn_protocols=list(H3_ALPN), is_client=True, **quic)
    configuration.load_verify_locations(cafile=str(certificate))
    async with connect("127.0.0.1", port, configuration=configuration, create_protocol=Http3Client) as client:
        yield cast(Http3Client, client)
