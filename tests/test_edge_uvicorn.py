"""Connections of an edge, in this process and with apps of the tests' own: what the service's app cannot show.

Under both servers, where both promise it; the rest is uvicorn's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import uvloop

from app.main import Draining
from app.settings import load
from tests.certificate import tls
from tests.engines import ENGINES
from tests.waiting import async_until
from workers import (
    edge_exchange,
    edge_http1,
    edge_hypercorn,
    edge_limits,
    edge_uvicorn,
    edge_uvicorn_requests,
)
from workers.edge_app import AppDidNotStart, EdgeError, check_engine
from workers.edge_head import Head
from workers.edge_uvicorn_protocol import Connection, Edge
from workers.edges import listen

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
App = Callable[[Any, Any, Any], Awaitable[None]]


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


@contextlib.asynccontextmanager
async def served(
    app: App, tmp_path: Path, server: str = "", engine: str = "uvicorn"
) -> AsyncIterator[tuple[int, asyncio.Event, Draining]]:
    """A running server: its port, what ends it, and whether it is leaving."""
    (tmp_path / "deploy.toml").write_text(f'[server]\nengine = "{engine}"\n{server}')
    settings = load(tmp_path / "deploy.toml", environ={})
    listener = listen("127.0.0.1", 0, 100, how="")
    finish, draining = asyncio.Event(), Draining()
    port = listener.getsockname()[1]
    serve = {"uvicorn": edge_uvicorn.serve, "hypercorn": edge_hypercorn.serve}[engine]
    task = asyncio.create_task(serve(app, settings, (listener.detach(),), draining, finish))
    try:
        yield port, finish, draining
    finally:
        finish.set()
        await task


async def ask(port: int, data: bytes) -> bytes:
    """Everything that is answered until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def plain(body: bytes = b"ok", status: int = 200, *headers: tuple[bytes, bytes]) -> App:
    """An app that reads the request and answers."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        got = b""
        while True:
            message = await receive()
            got += message.get("body", b"")
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"got", got)]})
        await send({"type": "http.response.body", "body": body})

    return app


@pytest.mark.parametrize("engine", ENGINES)
def test_an_answer_that_nobody_reads_is_given_up(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_limits, "SEND_SECONDS", 0.3)
    in_flight: list[int] = []

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        in_flight.append(1)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(200):
            await send({"type": "http.response.body", "body": bytes(1_000_000), "more_body": True})
        in_flight.append(-1)

    async def test() -> None:
        async with served(endless, tmp_path, engine=engine) as (port, _, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(GET)
            await async_until(value(lambda: len(in_flight) == 2), 10, "the end of the answer")
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            size = 0
            with contextlib.suppress(ConnectionResetError):
                while data := await reader.read(1_000_000):
                    size += len(data)
            writer.transport.abort()
            assert size < 30_000_000  # what the kernels hold; the rest was never sent

    run(test)


def value(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool | None]]:
    async def call() -> bool | None:
        return condition()

    return call


def test_an_answer_to_who_has_gone_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection breaks, and the app answers before it could be told; or asks for a body that cannot come."""
    made: list[Connection] = []

    def make(*given: Any) -> Connection:
        made.append(Connection(*given))
        return made[-1]

    monkeypatch.setattr(edge_uvicorn, "Connection", make)
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        try:
            made[-1].transport.abort()
            if scope["path"] == "/lost":
                await asyncio.sleep(0.05)
                seen.append(await receive())
            for more in (True, False):
                await send({"type": "http.response.start", "status": 200, "headers": []}) if more else None
                await send({"type": "http.response.body", "body": b"x", "more_body": more})
            seen.append("sent")
        except Exception as error:
            seen.append(error)

    async def test() -> None:
        async with served(app, tmp_path) as (port, _, _):
            assert await ask(port, GET) == b""
            head = b"POST /lost HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"
            assert await ask(port, head) == b""
            await async_until(value(lambda: len(seen) == 3), 5, "both requests")
        assert seen == ["sent", {"type": "http.disconnect"}, "sent"]

    run(test)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_connection_that_says_nothing_ends(engine: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with served(plain(), tmp_path, "keep_alive_timeout = 0.2\n", engine=engine) as (port, _, _):
            assert await ask(port, b"") == b""
            assert (await ask(port, GET)).count(b"200 OK") == 1

    run(test)


def test_what_is_sent_without_waiting_is_parsed_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of requests in one packet must not become thousands of objects."""
    made: list[int] = []
    release = asyncio.Event()
    original = edge_exchange.Exchange

    class Counted(original):  # type: ignore[valid-type, misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            made.append(1)

    monkeypatch.setattr(edge_uvicorn_requests, "Exchange", Counted)

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await release.wait()
            await plain()(scope, receive, send)

    async def test() -> None:
        async with served(slow, tmp_path) as (port, _, _):
            asking = asyncio.create_task(
                ask(port, GET * 5000 + b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            )
            await async_until(value(lambda: len(made) > 1), 10, "the first requests")
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(made) < 200
            release.set()
            assert (await asking).count(b"200 OK") == 5001

    run(test)


def test_who_never_waits_is_read_as_slowly_as_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under Hypercorn; it is not read on while a request of its is answered, or it would fill the memory."""
    unread: list[int] = []
    answered = edge_http1.Http1.answered

    def noted(self: edge_http1.Http1, exchange: Any) -> None:
        unread.append(len(self._parser.trailing_data[0]))
        answered(self, exchange)

    monkeypatch.setattr(edge_http1.Http1, "answered", noted)

    async def test() -> None:
        async with served(plain(), tmp_path, engine="hypercorn") as (port, _, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GET * 100_000)  # 2.7 MB
            while len(unread) < 500:
                assert await reader.read(65536)
            writer.transport.abort()

    run(test)
    assert max(unread) < 600_000


@pytest.mark.parametrize("engine", ENGINES)
def test_who_has_left_is_not_waited_for(engine: str, tmp_path: Path) -> None:
    """A client sends two requests and half a third, and closes its side: no more can come."""
    cut = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05)  # it has left before the second one is begun
        await plain()(scope, receive, send)

    async def test() -> None:
        async with served(app, tmp_path, engine=engine) as (port, _, _):
            for padding in (b"", b"a: " + bytes(3000).replace(b"\0", b"b") + b"\r\n"):  # parsed, or not yet
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(GET + GET[:-2] + padding + b"\r\n" + cut)
                writer.write_eof()
                async with asyncio.timeout(5):
                    answers = await reader.read()
                writer.close()
                assert answers.count(b"200 OK") == 3
                assert answers.count(b"got: half\r\n") == 1

    run(test)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_answer_before_the_body_says_what_becomes_of_it(engine: str, tmp_path: Path) -> None:
    """What follows may be the body or the next request where the client waited to be told to continue."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/early":
            await plain()(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    early = b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n" % len(GET)
    close = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"

    async def test() -> None:
        async with served(app, tmp_path, engine=engine) as (port, _, _):
            for expect in (b"", b"expect: 100-continue\r\n"):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(early + expect + b"\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 413")
                is_ending = engine == "hypercorn" or bool(expect)
                assert (b"connection: close" in head) == is_ending
                writer.write(GET + close)  # the body, which is no request
                answers = await reader.read()
                assert answers.count(b"200 OK") == (not is_ending)
                writer.close()
            whole = await ask(port, early + b"expect: 100-continue\r\n\r\n" + GET + close)
            assert whole.count(b"200 OK") == 1

    run(test)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_head_that_has_begun_when_the_edge_ends(engine: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with served(plain(), tmp_path, engine=engine) as (port, finish, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GET[:20])
            await asyncio.sleep(0.1)
            finish.set()
            await asyncio.sleep(0.1)
            writer.write(GET[20:])
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
            writer.close()

    run(test)


def test_a_head_is_refused_before_its_headers_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = Head.__init__

    def count(head: Head, request: Any) -> None:
        read.append(len(request.headers))
        original(head, request)

    monkeypatch.setattr(Head, "__init__", count)

    async def test() -> None:
        async with served(plain(), tmp_path, engine="hypercorn") as (port, _, _):
            head = GET[:-2] + b"a:\r\n" * 60_000 + b"\r\n"
            assert (await ask(port, head)).startswith(b"HTTP/1.1 431")
            assert (await ask(port, GET * 20_000 + head)).count(b"200 OK") > 0
        assert max(read) < 20_000

    run(test)


@pytest.mark.parametrize("engine", ENGINES)
def test_who_ends_tls_is_sent_no_more(engine: str, tmp_path: Path, certificate: Path) -> None:
    """Each further write would be a line of uvloop's in the log."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        connection = receive.__self__._connection
        connection.write = seen.append
        seen.append(connection.eof_received())  # as uvloop calls it: false lets it close
        for more in (True, False):
            await send({"type": "http.response.body", "body": b"x", "more_body": more})
        seen.append("end")

    async def test() -> None:
        async with served(app, tmp_path, tls(certificate), engine=engine) as (port, _, _):
            context = ssl.create_default_context(cafile=str(certificate))
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.write(GET)
            await reader.readuntil(b"x")
            await async_until(value(lambda: seen[-1:] == ["end"]), 5, "the end of the answer")
            writer.transport.abort()
        assert [one for one in seen if one] == ["end"]

    run(test)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_wish_to_upgrade_keeps_its_body(engine: str, tmp_path: Path) -> None:
    upgrade = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: x\r\n"
    post = b"POST / HTTP/1.1\r\nhost: x\r\n" + upgrade + b"content-length: 5\r\n\r\nGET /"
    last = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"

    async def test() -> None:
        async with served(plain(), tmp_path, engine=engine) as (port, _, _):
            for data in (post + last, post * 3 + last):
                answer = await ask(port, data)
                assert answer.count(b"200 OK") == data.count(b"HTTP/1.1")
                assert answer.count(b"got: GET /\r\n") == data.count(b"POST")
            assert (await ask(port, b"CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n" + GET)).count(b"200 OK") == 1

    run(test)


@pytest.mark.parametrize("engine", ENGINES)
def test_requests_are_the_same_however_their_bytes_arrive(engine: str, tmp_path: Path) -> None:
    random = Random(4)
    post = b"POST / HTTP/1.1\r\nhost: x\r\n"
    upgrade = b"connection: upgrade\r\nupgrade: h2c\r\n"
    requests = [
        (GET, b""),
        (post + b"content-length: 6000\r\n\r\n" + b"a" * 6000, b"a" * 6000),
        (post + upgrade + b"content-length: 5000\r\n\r\n" + b"b" * 5000, b"b" * 5000),
        (post + upgrade + b"cookie: " + b"c" * 3000 + b"\r\ncontent-length: 3\r\n\r\nGET", b"GET"),
        (post + b"transfer-encoding: chunked\r\n\r\n3\r\none\r\n3;x\r\ntwo\r\n0\r\nt: 1\r\n\r\n", b"onetwo"),
        (post + b"a: \r\nb:\r\ncontent-length: 0\r\n\r\n", b""),
    ]
    last = b"GET /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"

    async def test() -> None:
        async with served(plain(), tmp_path, engine=engine) as (port, _, _):
            for _ in range(60):
                chosen = random.choices(requests, k=12)
                data = b"".join(request for request, _ in chosen) + last
                cuts = sorted(random.sample(range(1, len(data)), random.choice((0, 1, 5, 40))))
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                for start, end in itertools.pairwise([0, *cuts, len(data)]):
                    writer.write(data[start:end])
                    await asyncio.sleep(0)
                answers = await reader.read()
                writer.close()
                assert re.findall(rb"\r\ngot: (.*)\r\n", answers) == [body for _, body in chosen] + [b""]

    run(test)


def test_a_connection_ends_after_its_share_of_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_uvicorn_requests, "REQUESTS_PER_CONNECTION", 3)

    async def test() -> None:
        async with served(plain(), tmp_path) as (port, _, _):
            answer = await ask(port, GET * 5)
            assert answer.count(b"200 OK") == 3
            assert answer.count(b"connection: close") == 1

    run(test)


@pytest.mark.parametrize(
    ("start", "body", "head"),
    [
        ({"status": 200, "headers": [(b"content-length", b"9")]}, b"short", b"500"),
        ({"status": 200, "headers": [(b"content-length", b"1")]}, b"long", b"500"),
        ({"status": 200, "headers": [(b"a", b"b\r\nc: d")]}, b"", b"500"),
        ({"status": 200, "headers": [(b"a\nb", b"")]}, b"", b"500"),
        ({"status": 200, "headers": []}, RuntimeError("a bug"), b"500"),
        ({"status": 200, "headers": []}, None, b"500"),
        ({"status": 204, "headers": []}, b"ignored", b"204"),
        ({"status": 200, "headers": [(b"connection", b"close")]}, b"", b"200"),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_an_app_that_answers_wrongly(  # noqa: PLR0917
    engine: str, tmp_path: Path, start: Any, body: Any, head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", **start})
        if isinstance(body, Exception):
            raise body
        if body is not None:
            await send({"type": "http.response.body", "body": body})

    async def test() -> None:
        async with served(app, tmp_path, "keep_alive_timeout = 0.2\n", engine=engine) as (port, _, _):
            answer = await ask(port, GET)
        first, _, content = answer.partition(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 " + head)
        if head == b"500":
            assert b'"code":"internal_error"' in content
            assert b"access-control-allow-origin: *" in first
        assert (head == b"204") == (b"connection: close" not in first)

    caplog.set_level(logging.CRITICAL)
    run(test)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_answer_without_a_length(engine: str, tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})

    async def test() -> None:
        async with served(app, tmp_path, engine=engine) as (port, _, _):
            close = b"host: x\r\nconnection: close\r\n\r\n"
            assert (await ask(port, b"GET / HTTP/1.1\r\n" + close)).endswith(
                b"\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
            )
            assert (await ask(port, b"GET / HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\nonetwo")
            head = await ask(port, b"HEAD / HTTP/1.1\r\n" + close)
            assert head.endswith(b"\r\n\r\n")
            assert b"one" not in head

    run(test)


@pytest.mark.parametrize("engine", ENGINES)
def test_leaving_then_finishing(engine: str, tmp_path: Path) -> None:
    """Answers end their connections at once; what is idle ends at the end; what never ends is cut off."""
    stuck: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/stuck":
            try:
                stuck.append(True)
                await asyncio.Event().wait()
            finally:
                stuck.append(False)
        await plain()(scope, receive, send)

    async def test() -> None:
        async with served(app, tmp_path, "graceful_timeout = 0.3\n", engine=engine) as (
            port,
            finish,
            draining,
        ):
            idle = asyncio.create_task(ask(port, GET))
            waiting = asyncio.create_task(ask(port, b"GET /stuck HTTP/1.1\r\nhost: x\r\n\r\n"))
            await async_until(value(lambda: bool(stuck)), 5, "the stuck request")
            draining.is_set = True
            assert b"connection: close" in await ask(port, GET)
            assert not idle.done()
            finish.set()
            answer = await idle
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"connection: close" not in answer
            with contextlib.suppress(ConnectionResetError):
                assert await waiting == b""
            await async_until(value(lambda: stuck == [True, False]), 5, "the end of the stuck request")

    run(test)


def test_a_lifespan_that_fails_or_is_missing(tmp_path: Path) -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        message = "Traceback\n  …\nValueError: not today"
        await send({"type": "lifespan.startup.failed", "message": message})

    async def without(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        await plain()(scope, receive, send)

    async def test() -> None:
        with pytest.raises(AppDidNotStart, match=r"^not today$"):
            async with served(failing, tmp_path):
                pass
        async with served(without, tmp_path) as (port, _, _):
            assert b"200 OK" in await ask(port, b"GET / HTTP/1.0\r\n\r\n")

    run(test)


def test_an_engine_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deploy.toml").write_text('[server]\nengine = "uvicorn"\n')
    settings = load(tmp_path / "deploy.toml", environ={})
    check_engine(settings)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EdgeError, match=r"needs uvicorn and httptools: .*eventbunker\[uvicorn\]"):
        check_engine(settings)


def test_connections_never_exceed_what_the_process_can_hold(tmp_path: Path) -> None:
    (tmp_path / "deploy.toml").write_text("[server]\nmax_connections = 7\n")
    assert Edge(load(tmp_path / "deploy.toml", environ={}), Draining()).max_connections == 7
