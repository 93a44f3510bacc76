"""Requests that an app takes without a task, on connections of both servers, among those that it does not."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Scope

from app.http import Reply
from tests.engines import ENGINES
from tests.test_edge_uvicorn import ask, run, served
from tests.waiting import async_until


class Both:
    """An app with both ways. `kept`: the replies that it owes."""

    def __init__(self, *, takes: bool = True) -> None:
        self.kept: list[tuple[bytes, Reply]] = []
        self.begun: list[object] = []  # in the other way
        self.called: list[bytes] = []
        self.takes = takes
        self.error: Exception | None = None

    def begin(self, scope: Scope, body: bytes | bytearray, reply: Reply) -> bool:
        if self.error is not None:
            raise self.error
        if self.takes and scope["method"] == "POST":
            self.kept.append((bytes(body), reply))
            return True
        return False

    def answer(self, *numbers: int) -> None:
        kept, self.kept = self.kept, []
        for number in numbers or range(len(kept)):
            body, reply = kept[number]
            reply(200, b"at once " + body, [(b"content-length", b"%d" % len(b"at once " + body))])

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.begun.append(scope)
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.called.append(body)
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [[b"content-length", b"%d" % len(body)]],
            }
        )
        await send({"type": "http.response.body", "body": body})


def post(body: bytes, *lines: bytes) -> bytes:
    return b"".join(
        [b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n" % len(body), *lines, b"\r\n", body]
    )  # fmt: skip


LAST = b"connection: close\r\n"


@pytest.mark.parametrize("engine", ENGINES)
def test_requests_on_one_connection_are_answered_in_their_order(engine: str, tmp_path: Path) -> None:
    """Some at once, some the other way, sent without waiting."""

    async def test() -> None:
        app = Both()
        async with served(app, tmp_path, engine=engine) as (port, _, _):
            gets = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
            asking = asyncio.create_task(
                ask(port, post(b"1") + gets + post(b"2" * 500) + post(b"3") + gets + post(b"4", LAST))
            )
            for expected in (b"1", b"2" * 500, b"3", b"4"):
                await async_until(lambda: _now(app.kept), 5, "the request")
                assert [body for body, _ in app.kept] == [expected]
                app.answer()
            answer = await asking
            places = [answer.index(b"at once " + body) for body in (b"1", b"2", b"3", b"4")]
            assert places == sorted(places)
            assert answer.count(b"200 OK") == 6
            assert app.called == [b"", b""]

    run(test)


async def _is_closed(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return True
    writer.close()
    return False


async def _now(found: list[Any]) -> list[Any]:
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_a_body_in_pieces_and_one_that_waits_to_be_asked_for_go_the_other_way(
    engine: str, tmp_path: Path
) -> None:
    async def test() -> None:
        app = Both()
        async with served(app, tmp_path, engine=engine) as (port, _, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            whole = post(b"late")
            writer.write(whole[:-2])
            await writer.drain()
            await async_until(lambda: _now(app.begun), 5, "the app, which waits for the rest")
            writer.write(whole[-2:])
            assert await reader.readuntil(b"late")
            writer.write(post(b"asked", b"expect: 100-continue\r\n"))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            assert await reader.readuntil(b"asked")
            writer.close()
        assert app.called == [b"late", b"asked"]
        assert app.kept == []

    run(test)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_bug_at_once_is_left_to_the_other_way(engine: str, tmp_path: Path) -> None:
    async def test() -> None:
        app = Both()
        app.error = ZeroDivisionError()
        async with served(app, tmp_path, engine=engine) as (port, _, _):
            assert b"\r\n\r\nbody" in await ask(port, post(b"body", LAST))
        assert app.called == [b"body"]

    run(test)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_answer_that_cannot_be_sent_is_an_error_and_the_others_are_sent(
    engine: str, tmp_path: Path
) -> None:
    async def test() -> None:
        app = Both()
        async with served(app, tmp_path, engine=engine) as (port, _, _):
            asking = [asyncio.create_task(ask(port, post(b"%d" % number, LAST))) for number in range(3)]
            await async_until(lambda: _now([1] if len(app.kept) == 3 else []), 5, "the requests")
            kept, app.kept = app.kept, []
            kept[0][1](200, b"a", [(b"content-length", b"1"), (b"bad", b"a\r\nb: c")])
            for _, reply in kept[1:]:
                reply(200, b"a", [(b"content-length", b"1")])
            answers = sorted([(await one)[:12] for one in asking])
            assert answers == [b"HTTP/1.1 200", b"HTTP/1.1 200", b"HTTP/1.1 500"]

    run(test)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("half", [True, False], ids=["its side", "the connection"])
def test_a_client_may_close(engine: str, tmp_path: Path, half: bool) -> None:
    """Its sending side, and is answered; or all, and nobody is."""

    async def test() -> None:
        app = Both()
        async with served(app, tmp_path, engine=engine) as (port, _, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(post(b"1"))
            await async_until(lambda: _now(app.kept), 5, "the request")
            if half:
                writer.write_eof()
                app.answer()
                assert (await reader.read()).endswith(b"at once 1")
            else:
                writer.transport.abort()
                second = asyncio.create_task(ask(port, post(b"2", LAST)))
                await async_until(lambda: _now([1] if len(app.kept) == 2 else []), 5, "another one")
                app.answer()
                assert (await second).endswith(b"at once 2")
            writer.close()

    run(test)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_leaving_edge_waits_for_what_it_took(engine: str, tmp_path: Path) -> None:
    async def test() -> None:
        app = Both()
        async with served(app, tmp_path, engine=engine) as (port, finish, draining):
            asking = asyncio.create_task(ask(port, post(b"1")))
            await async_until(lambda: _now(app.kept), 5, "the request")
            draining.is_set = True
            finish.set()
            await async_until(lambda: _is_closed(port), 5, "the listening socket's end")
            assert not asking.done()
            app.answer()
            answer = await asking
            assert answer.endswith(b"at once 1")
            assert b"connection: close" in answer

    run(test)


def test_pieces_of_many_sizes_lead_to_the_same_answers(tmp_path: Path) -> None:
    """However the bytes of four requests are cut into packets."""
    data = post(b"1") + post(b"22" * 1500) + post(b"3") + post(b"4", LAST)

    async def test() -> None:
        for engine, size in itertools.product(ENGINES, (7, 100, 3000)):
            app = Both()
            async with served(app, tmp_path, engine=engine) as (port, _, _):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)

                async def serve(app: Both = app) -> None:
                    while True:
                        app.answer()
                        await asyncio.sleep(0.001)

                serving = asyncio.create_task(serve())
                for at in range(0, len(data), size):
                    writer.write(data[at : at + size])
                    await writer.drain()
                answer = await reader.read()
                serving.cancel()
                writer.close()
            assert answer.count(b"200 OK") == 4, (engine, size)
            assert answer.replace(b"at once ", b"").endswith(b"4")

    run(test)
