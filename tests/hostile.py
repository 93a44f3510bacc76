"""What the tests of hostile input share: bytes on a socket, answers read off it, and what the edge must keep."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import httpx

from tests import plain_http
from tests.engines import Target
from tests.waiting import until

SECONDS = 15.0  # for any answer; a longer wait is a hang
MAX_GROWTH_BYTES = 48 * 1024 * 1024  # of the edge's memory; the attacks send hundreds of megabytes

BODY = b'{"event_name":"e"}'
CLOSE = b"connection: close\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
GET = b"GET /livez HTTP/1.1\r\nhost: x\r\n"


@dataclass(frozen=True)
class Answer:
    """One HTTP/1.1 answer. `headers` by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def post(key: str, headers: bytes = CLOSE, body: bytes = BODY, length: bytes | None = None) -> bytes:
    """A POST /post; `length` b"" leaves Content-Length out."""
    if length is None:
        length = b"%d" % len(body)
    head = b"POST /post HTTP/1.1\r\nhost: x\r\nx-eventbunker-write-key: %s\r\n" % key.encode()
    return head + (b"content-length: %s\r\n" % length if length else b"") + headers + b"\r\n" + body


def chunked(key: str, body: bytes, headers: bytes = CLOSE) -> bytes:
    return post(key, CHUNKED + headers, body, b"")


def connect(url: str, seconds: float = SECONDS) -> socket.socket:
    """A connection to the service."""
    parts = urlsplit(url)
    assert parts.hostname
    return socket.create_connection((parts.hostname, parts.port or 80), timeout=seconds)


def send(connection: socket.socket, data: bytes) -> None:
    """Send what the server takes; one that has answered may hang up before the end."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(data)


def read_answer(stream: BinaryIO) -> Answer | None:
    """The next answer that is not `100 Continue`; None at the end of the connection."""
    line = stream.readline()
    if not line:
        return None
    status = int(line.split()[1])
    headers: dict[str, str] = {}
    while (line := stream.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if status == 100:
        return read_answer(stream)
    return Answer(status, headers, stream.read(int(headers.get("content-length", "0"))))


def exchange(url: str, data: bytes, *, half_close: bool = False) -> list[Answer]:
    """All answers to `data` until the server hangs up. The client ends with `connection: close`, or is told to go."""
    with connect(url) as connection, connection.makefile("rb") as stream:
        send(connection, data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        return list(iter(lambda: read_answer(stream), None))


def assert_documented(answer: Answer | httpx.Response) -> None:
    """Never a 5xx; and an error has the one shape of every error, with CORS."""
    body = answer.content if isinstance(answer, httpx.Response) else answer.body
    status = answer.status_code if isinstance(answer, httpx.Response) else answer.status
    assert status < 500, body
    assert answer.headers["access-control-allow-origin"] == "*"
    assert re.fullmatch(r"[0-9a-f]{24}", answer.headers["x-request-id"])
    if status >= 400:
        content = json.loads(body)
        assert answer.headers["content-type"] == "application/json"
        assert set(content) == {"error", "code", "detail", "errors", "request_id"}
        assert content["detail"]
        assert content["request_id"] == answer.headers["x-request-id"]
        assert len(body) < 16_384, "an error is no echo"
        assert b"Traceback" not in body


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@contextlib.contextmanager
def unharmed(service: Target) -> Iterator[None]:
    """Around attacks: the same edge process lives on, as large as before, with no connection kept and no error."""
    service.wait_ready()
    [pid] = service.pids("edge")
    memory, files, began = resident_bytes(pid), open_files(pid), len(service.log)
    yield
    assert service.pids("edge") == [pid]
    assert plain_http.get(f"{service.url}/readyz?strict", timeout=10).status_code == 200
    until(
        lambda: open_files(pid) <= files + 8, 10, "the end of every connection"
    )  # some may be the pool's to Redis
    grown = resident_bytes(pid) - memory
    assert grown < MAX_GROWTH_BYTES, f"the edge grew by {grown / 2**20:.0f} MiB"
    lines = [json.loads(line) for line in service.log[began:].splitlines()]
    assert not [line for line in lines if line["level"] == "error" or line["message"] == "a connection broke"]
