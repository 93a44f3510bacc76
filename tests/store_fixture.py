"""The embedded store as tests use it: a real process on a free port, one for the whole session.

`store_server` gives its address, token and process; `store_database` a database of the test's own.
`start_store` is for the tests that stop, kill or crowd one of their own.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from tests import plain_http
from tests.waiting import until

START_SECONDS = 20.0
STOP_SECONDS = 15.0
REQUEST_SECONDS = 30.0
EPHEMERAL = 32_768  # the first port that Linux gives to whoever asks for any
DURABLE = "fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 1000"
ROOT = Path(__file__).parent.parent


def row(number: int, content: bytes) -> bytes:
    """A row of (UInt64, String) in RowBinary; at most 127 bytes of content."""
    return struct.pack("<QB", number, len(content)) + content


class StoreServer:
    """A running store. `post` sends one statement with the right token."""

    def __init__(self, path: Path, port: int, token: str, process: subprocess.Popen[bytes]) -> None:
        self.path = path
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.token = token
        self.process = process
        self.pid = process.pid

    def post(self, sql: str | bytes, **options: str | int) -> httpx.Response:
        """Run `sql`; `options` are URL parameters."""
        headers = {"X-ClickHouse-Key": self.token}
        return plain_http.post(
            self.url, params=options, content=sql, headers=headers, timeout=REQUEST_SECONDS
        )

    def insert(self, sql: str, content: bytes, **options: str | int) -> httpx.Response:
        """Run the INSERT `sql` with `content` as its data; `options` are URL parameters."""
        return self.post(content, query=sql, **options)

    def text(self, sql: str | bytes, **options: str | int) -> str:
        """The answer's text without its last newline; fails the test on any error."""
        response = self.post(sql, **options)
        assert response.status_code == 200, response.text
        return response.text.removesuffix("\n")

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on now.

    Below those that the kernel gives to whoever asks for any: no connection takes it before a test does.
    """
    for _ in range(1000):
        port = 10_000 + secrets.randbelow(EPHEMERAL - 10_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"no free port below {EPHEMERAL}")


def start_store(
    path: Path, *arguments: str, token: str = "test-token", before: Sequence[str] = ()
) -> StoreServer:
    """Start a store on `path` and wait until it answers. Its log is `<path>.log`. `before`: who starts it."""
    port = free_port()
    command: Sequence[str] = (
        *before,
        *(sys.executable, "-m", "workers.embedded_store", "--port", str(port), "--path", str(path)),
        *arguments,
    )
    with path.with_suffix(".log").open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "CLICKHOUSE_PASSWORD": token},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = StoreServer(path, port, token, process)

    def ready() -> bool:
        if process.poll() is not None:
            raise AssertionError(path.with_suffix(".log").read_text())
        try:
            return plain_http.get(f"{server.url}/ping", timeout=1.0).status_code == 200
        except httpx.TransportError:
            return False

    until(ready, START_SECONDS, "the store's /ping")
    return server


@pytest.fixture(scope="session")
def store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """One store for the whole session; its databases belong to the tests."""
    server = start_store(tmp_path_factory.mktemp("store") / "data")
    yield server
    server.stop()


@pytest.fixture
def store_database(store_server: StoreServer) -> Iterator[str]:
    """The name of a new, empty database."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    store_server.text(f"CREATE DATABASE {name}")
    yield name
    store_server.text(f"DROP DATABASE {name}")


@pytest.fixture
def store_table(store_server: StoreServer, store_database: str) -> str:
    """A table of (a UInt64, b String) that fsyncs and keeps deduplication tokens."""
    name = f"{store_database}.t"
    columns = "(a UInt64, b String) ENGINE = MergeTree ORDER BY a"
    store_server.text(f"CREATE TABLE {name} {columns} SETTINGS {DURABLE}")
    return name
