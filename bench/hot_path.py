"""Where a request's time goes: the app alone, without a server, on a Redis of its own.

    python -m bench.hot_path            CPU microseconds of a request in all, and of each step by itself
    python -m bench.hot_path functions  and how many byte codes Python runs in each function

32 requests are under way at any time, given to the app as our servers give them (`app.gate.Gate.begin`); what is
answered goes nowhere. CPU seconds, because the machine may be shared; the least of several rounds, because caches may be too.
Byte codes are the same on every machine and in every round: good for comparing two versions.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
import timeit
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import uvloop
from starlette.types import ASGIApp, Message, Scope

from app import ledger, stream
from app.context import ContextReader
from app.event import read_event
from app.gate import AnswerHeaders
from app.grant import KeyType
from app.http import header, read_body, write_key
from app.idempotency_key import choose_event_id
from app.main import create_app
from app.settings import Settings
from app.timestamp import parse_timestamp
from tests.redis_fixture import start_redis
from tests.registries import new_key, registry, settings_for

IN_FLIGHT = 32
REQUESTS = 5_000  # in one round
ROUNDS = 7
TRACED = 1_000
BODY = (
    b'{"event_name":"my_first_event_name","timestamp":"2021-06-26T14:48:00.000",'
    b'"customer_identifier":"your_app_customer_id","example_string_field":"abc.com",'
    b'"example_number_field":123,"example_array_field":["cat","dog"],"example_bool_field":true}'
)


def scope_of(secret: str) -> Scope:
    """What a server makes of wrk's request."""
    headers = [
        (b"host", b"127.0.0.1:8787"),
        (b"content-type", b"application/json"),
        (b"x-eventbunker-write-key", secret.encode()),
        (b"content-length", b"%d" % len(BODY)),
    ]
    return {
        **{"type": "http", "http_version": "1.1", "method": "POST", "path": "/post", "raw_path": b"/post"},
        **{"query_string": b"", "headers": headers, "client": ("127.0.0.1", 5000), "root_path": ""},
    }


async def floor(_scope: Scope, receive: Callable[[], Any], send: Callable[[Message], Any]) -> None:
    """An app that does nothing: what the harness itself costs."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def drive(app: ASGIApp, secret: str, number: int) -> None:
    """So many requests, IN_FLIGHT of them at a time: at once where the app takes them so, else as tasks."""
    begin = getattr(app, "begin", None)
    left, under_way = number, 0
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    tasks: set[asyncio.Task[None]] = set()

    async def receive() -> Message:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: Message) -> None:
        if message.get("status", 200) != 200:
            raise RuntimeError(f"an answer of {message['status']}")

    def start() -> None:
        nonlocal left, under_way
        left, under_way = left - 1, under_way + 1
        scope = scope_of(secret)
        if begin is None or not begin(scope, BODY, reply):
            task = asyncio.ensure_future(app(scope, receive, send))
            tasks.add(task)
            task.add_done_callback(end)

    def end(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        reply(500 if task.exception() else 200, b"", [])

    def reply(status: int, _body: bytes, _headers: object) -> None:
        nonlocal under_way
        under_way -= 1
        if status != 200 and not over.done():
            over.set_exception(RuntimeError(f"an answer of {status}"))
        elif left > 0:
            loop.call_soon(start)  # as the next one comes from its socket
        elif not under_way and not over.done():
            over.set_result(None)

    for _ in range(IN_FLIGHT):
        start()
    await over


async def cost(app: ASGIApp, secret: str) -> float:
    """CPU microseconds of one request."""
    rounds = []
    await drive(app, secret, TRACED)
    for _ in range(ROUNDS):
        began = time.process_time()
        await drive(app, secret, REQUESTS)
        rounds.append((time.process_time() - began) / REQUESTS * 1e6)
    return min(rounds)


async def functions(app: ASGIApp, secret: str) -> list[tuple[str, float]]:
    """Byte codes that a request runs, by function."""
    counted: Counter[CodeType] = Counter()

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            counted[frame.f_code] += 1
        return trace

    sys.settrace(trace)
    try:
        await drive(app, secret, TRACED)
    finally:
        sys.settrace(None)
    own = {code: number for code, number in counted.items() if code.co_filename != __file__}
    found = [("in all", sum(own.values()) / TRACED)]
    for code, number in Counter(own).most_common(30):
        found.append((f"{Path(code.co_filename).name} {code.co_name}", number / TRACED))
    return found


async def steps(settings: Settings, secret: str) -> list[tuple[str, float]]:
    """Each step by itself, again and again: less than in its place, where caches are colder."""
    scope = scope_of(secret)
    headers, context = AnswerHeaders(settings), ContextReader(settings)

    async def receive() -> Message:
        return {"type": "http.request", "body": BODY, "more_body": False}

    def read() -> None:
        try:
            read_body(scope, receive, 65_536).send(None)
        except StopIteration:
            return
        raise RuntimeError("the body was waited for")

    def alone(work: Callable[[], object]) -> float:
        return min(timeit.repeat(work, number=20_000, repeat=5)) / 20_000 * 1e6

    async with registry(settings) as known:
        grant = await known.authorise(secret, KeyType.WRITE)
        what: dict[str, Callable[[], object]] = {
            "request id and CORS headers": lambda: headers.make(None),
            "headers, by name": lambda: (scope.pop("eventbunker.headers", None), header(scope, b"origin")),
            "the key: digest, grant, still valid": lambda: known.cached(
                write_key(scope) or "", KeyType.WRITE
            ),
            "the body": read,
            "the event: decode and every rule": lambda: read_event(BODY),
            "of that, its timestamp": lambda: parse_timestamp("2021-06-26T14:48:00.000"),
            "an id in a header?": lambda: choose_event_id(scope, None),
            "agent, referer, address": lambda: context.read(scope, grant),
            "the stream's bytes": lambda: stream.encode_request(
                bytes(12), 1, grant.project_id, "", context=("", "", ""), events=((1, BODY, ""),)
            ),
            "where the ledger counts it": lambda: ledger.bucket(grant.project_id, 1_624_910_874_832),
        }
        found = []
        for name, work in what.items():
            await known.authorise(secret, KeyType.WRITE)  # confirmed anew: what is measured is memory
            found.append((name, alone(work)))
        return found


async def measure(directory: Path, wants_functions: bool) -> None:
    """Print what the module's docstring says."""
    server = start_redis(directory)
    try:
        settings = settings_for(server.url, directory, "[observability]\ncanary_interval = 0\n")
        async with registry(settings) as made:
            _, _, secret = await new_key(made)
        app = create_app(settings)
        stop, started = asyncio.Event(), asyncio.Event()

        async def lifespan_receive() -> Message:
            if not started.is_set():
                return {"type": "lifespan.startup"}
            await stop.wait()
            return {"type": "lifespan.shutdown"}

        async def lifespan_send(_message: Message) -> None:
            started.set()

        life = asyncio.ensure_future(app({"type": "lifespan"}, lifespan_receive, lifespan_send))
        await started.wait()
        table = [("a request, with Redis and without a server", await cost(app, secret))]
        table.append(("of that, this harness with an app that does nothing", await cost(floor, secret)))
        table += await steps(settings, secret)
        for name, microseconds in table:
            print(f"| {name} | {microseconds:.2f} |")
        if wants_functions:
            for name, number in await functions(app, secret):
                print(f"{number:8.1f}  {name}")
        stop.set()
        await life
    finally:
        server.stop()


def main() -> None:
    """The command line."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        with tempfile.TemporaryDirectory() as name:
            uvloop.run(measure(Path(name), "functions" in sys.argv[1:]))
        return
    with tempfile.TemporaryDirectory() as name:  # as under the supervisor: each number is in a file
        environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": name}
        command = [sys.executable, "-m", "bench.hot_path", *sys.argv[1:]]
        raise SystemExit(subprocess.run(command, env=environ, check=False).returncode)


if __name__ == "__main__":
    main()
