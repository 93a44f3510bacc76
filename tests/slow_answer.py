"""An edge that answers in two halves, the second when it is told to: what a command does in between."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

from tests.service import COMMAND, FROM_OUTSIDE, ROOT

SECONDS = 30.0  # until a process that has nothing to do has ended
# Whoever runs the tests in the background of a script has Ctrl-C ignored, or SIGHUP by nohup, and so have all
# its children.
HEEDS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
HANGS_UP = "signal.signal(signal.SIGHUP, signal.SIG_DFL); "


class SlowAnswer:
    """`url` answers every request with `body`, of which the second half waits for `go_on`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.go_on = threading.Event()


@contextmanager
def slow_answer(body: bytes) -> Iterator[SlowAnswer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.send_header("x-eventbunker-event-count", str(body.count(b"\n")))
            self.end_headers()
            half = len(body) // 2
            self.wfile.write(body[:half])
            edge.go_on.wait(SECONDS)
            try:
                self.wfile.write(body[half:])
            except ConnectionError:
                """The command has ended."""

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        edge = SlowAnswer(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield edge
        finally:
            edge.go_on.set()
            server.shutdown()
            thread.join()


@contextmanager
def answer(body: bytes) -> Iterator[str]:
    """The url of one that answers at once."""
    with slow_answer(body) as edge:
        edge.go_on.set()
        yield edge.url


@contextmanager
def command(
    *words: str,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.PIPE,
    before: Sequence[str] = (),
    code: str = "",
    environ: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[subprocess.Popen[str]]:
    """`eventbunker` with a key, running. `before`: the words of a program that starts it."""
    inherited = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE}
    process = subprocess.Popen(
        [*before, sys.executable, "-c", HEEDS + ("" if before else HANGS_UP) + code + COMMAND, *words],
        cwd=ROOT,
        env={**inherited, "QUERY_KEY": "eb_q_x", **environ},
        stdout=stdout,
        stderr=stderr,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code, and what was said on standard error."""
    said = process.communicate(timeout=SECONDS)[1]
    return process.returncode, said or ""


def parts(directory: Path) -> list[Path]:
    """What is being written there, once it holds something."""
    return [one for one in directory.glob("*.part") if one.stat().st_size]
