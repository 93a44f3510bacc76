"""A real Redis for tests: the same binary and the same redis.conf as `eventbunker dev`, one for the session.

`redis_server` gives its url and process, `redis_url` the same with every key removed. `start_redis` is for
tests that kill or fill one of their own.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.waiting import until
from workers import redis_server as lookup

START_SECONDS = 20.0
STOP_SECONDS = 10.0


class RedisServer:
    """A running server with an append-only file, reached through a unix socket."""

    def __init__(self, directory: Path, extra: str = "") -> None:
        self.directory = directory
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._conf = directory / "redis.conf"
        self._conf.write_text(lookup.configuration(directory, self.socket, appendfsync="always") + extra)
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start it (again, on the same files) and wait until it has loaded them."""
        with (self.directory / "redis.log").open("ab") as output:
            self.process = subprocess.Popen(
                [str(lookup.find().path), str(self._conf)], stdout=output, stderr=output
            )
        until(self._answers, START_SECONDS, "PING")
        return self.process

    def client(self) -> redis.Redis:
        """A synchronous client; close it, or use it as a context."""
        return redis.Redis.from_url(self.url)

    def stop(self) -> None:
        """SIGTERM, bounded."""
        self.process.terminate()
        self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError((self.directory / "redis.log").read_text())
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.exceptions.ConnectionError:  # BusyLoadingError is one
            return False


def start_redis(directory: Path, extra: str = "") -> RedisServer:
    """A server of the test's own; `extra` lines go to the end of its redis.conf."""
    return RedisServer(directory, extra)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for the whole session; a test that needs it empty takes `redis_url`."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The url of a Redis without a key in it."""
    with redis_server.client() as client:
        client.flushall()
    return redis_server.url
