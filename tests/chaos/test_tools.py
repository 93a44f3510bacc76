"""The faults' tools do what they say: a fault that does nothing would prove nothing."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests import plain_http
from tests.chaos.clock import VARIABLE, Clock, FakeTime, NoClock
from tests.chaos.link import SLOW_SECONDS, Links, Mood
from tests.chaos.process import Process
from tests.service import ROOT
from tests.waiting import until
from workers import redis_server

BODY = b"x" * 5000


class Upstream(http.server.BaseHTTPRequestHandler):
    """Answers what it was sent, and counts."""

    protocol_version = "HTTP/1.1"
    executed = 0

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        if len(content) == len(BODY):
            Upstream.executed += 1
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def upstream() -> Iterator[int]:
    Upstream.executed = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.mark.parametrize(
    ("mood", "is_answered", "executed"),
    [
        (Mood.GOOD, True, 1),
        (Mood.SLOW, True, 1),
        (Mood.CUT, False, 0),
        (Mood.DEAF, False, 1),
        (Mood.CUT_REQUEST, False, 0),
        (Mood.CUT_ANSWER, False, 1),
        (Mood.ERROR, True, 0),
        (Mood.ERROR_AFTER, True, 1),
    ],
)
def test_a_link_has_its_mood_and_gets_over_it(
    upstream: int, mood: Mood, is_answered: bool, executed: int
) -> None:
    links = Links()
    link, port = links.open(upstream)

    def post() -> httpx.Response:
        return plain_http.post(f"http://127.0.0.1:{port}/", content=BODY, timeout=2 * SLOW_SECONDS + 1)

    try:
        assert post().content == BODY
        Upstream.executed = 0
        links.become(link, mood)
        until(lambda: link.mood is mood, 5)
        began = time.monotonic()
        if is_answered:
            assert (post().status_code == 500) == (mood in (Mood.ERROR, Mood.ERROR_AFTER))
        else:
            with pytest.raises(httpx.TransportError):
                post()
        is_late = time.monotonic() - began > SLOW_SECONDS
        assert is_late or mood not in (Mood.SLOW, Mood.DEAF)
        until(lambda: Upstream.executed == executed, 5)
        links.become(link, Mood.GOOD)
        until(lambda: link.mood is Mood.GOOD, 5)
        assert post().content == BODY
    finally:
        links.close()


FULL = """
import os, sys
from pathlib import Path
from tests.chaos.disk import Disk, NoDisk, own_mounts
disk = Disk(Path(sys.argv[1]) / "disk", 4 << 20, own_mounts())
try:
    disk.fill()
except NoDisk as error:
    sys.exit(f"no disk: {error}")
try:
    (disk.path / "more").write_bytes(b"x")
except OSError as error:
    print(error.strerror)
disk.free()
(disk.path / "more").write_bytes(b"x" * 1000)
"""


def test_a_full_disk_is_full_and_can_be_freed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=30,
        check=False,
    )  # fmt: skip
    if "no disk: " in done.stderr:
        pytest.skip(done.stderr.strip())
    assert (done.returncode, done.stdout) == (0, "No space left on device\n"), done.stderr


SHOW = """
import os, sys, time
from pathlib import Path
from tests.chaos.clock import VARIABLE, follow
follow(Path(os.environ[VARIABLE]))
for _ in sys.stdin:
    print(time.time(), time.time_ns() / 1e9, time.monotonic(), flush=True)
"""


def test_a_clock_is_stepped_and_the_monotonic_one_is_not(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "clock")
    environ = {VARIABLE: str(clock.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", SHOW], cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        for step in (0.0, 3600.0, -3600.0, 0.0):
            clock.step(step)
            process.stdin.write(b"\n")
            process.stdin.flush()
            wall, nanoseconds, monotonic = map(float, process.stdout.readline().split())
            assert abs(wall - time.time() - step) < 5
            assert abs(nanoseconds - time.time() - step) < 5
            assert abs(monotonic - time.monotonic()) < 5
    finally:
        process.kill()
        process.communicate()


def is_near(offset: Callable[[], float], step: float) -> bool:
    return abs(offset() - step) < 3


def test_the_clock_of_redis_is_stepped(tmp_path: Path) -> None:
    import redis

    clock = FakeTime(tmp_path / "clock")
    try:
        clock.step(0)
    except NoClock as error:
        pytest.skip(str(error))
    socket = tmp_path / "s"
    conf = tmp_path / "redis.conf"
    conf.write_text(redis_server.configuration(tmp_path, socket, appendfsync="always"))
    process = Process(
        "redis", [str(redis_server.find().path), str(conf)], dict(clock.environ), tmp_path / "log"
    )
    process.start()
    try:
        until(socket.exists, 20, "Redis")
        with redis.Redis.from_url(f"unix://{socket}") as client:

            def offset() -> float:
                return float(client.time()[0]) - time.time()

            for step in (40.0, -40.0, 0.0):
                clock.step(step)
                until(partial(is_near, offset, step), 10, f"a step of {step}")
    finally:
        process.kill()


def test_a_process_that_dies_by_itself_is_noticed_and_started_again(tmp_path: Path) -> None:
    process = Process("sleeper", ["sleep", "60"], {}, tmp_path / "log")
    process.start()
    try:
        old = process.pid
        subprocess.run(["kill", "-9", str(old)], check=True)

        def is_new() -> bool:
            process.tend()
            return process.is_alive and process.pid != old

        until(is_new, 5, "a new one")
        assert process.deaths == ["exit -9"]
        process.kill()
        process.tend()
        assert not process.is_alive, "a fault killed it: it stays away until the fault is healed"
    finally:
        process.kill()
