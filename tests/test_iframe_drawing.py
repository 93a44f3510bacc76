"""Drawing beside the event loop: in a thread, one for a project, and with everything around the handler replaced."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from app import iframe, unsent
from app.aside import OF_A_PROJECT, aside
from app.embeds import Embed
from app.errors import ApiError, Kind
from app.grant import Grant, KeyType
from app.iframe import IframeHandlers
from app.scope import Scope
from app.store import Result
from tests.waiting import async_until

PATH = "/v1/query/iframe"
QUERY = {"time_period": "today", "computations": [{"function": "count"}]}


class Asker:
    """Lets everybody in, and answers 3."""

    scope = Scope("p")
    fresh_as_of = 5

    async def grant(self, _request: Request) -> Grant:
        return Grant(KeyType.QUERY, "k", "a", "p")

    def count(self, _grant: Grant) -> None:
        pass

    async def body(self, _request: Request) -> bytes:
        return json.dumps(QUERY).encode()

    @contextlib.asynccontextmanager
    async def turn(self, _grant: Grant) -> AsyncIterator[Asker]:
        yield self

    async def ask(self, *_: Any) -> Result:
        return Result(["o0"], ["String"], [["3"]])


class Embeds:
    """Knows every token."""

    async def find(self, _token: str) -> Embed:
        grant = Grant(KeyType.QUERY, "k", "a", "p")
        return Embed("t", "", grant, json.dumps(QUERY), "", "number", 0, 2**50)


def request(leaves: asyncio.Event) -> Request:
    async def receive() -> dict[str, str]:
        await leaves.wait()
        return {"type": "http.disconnect"}

    scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": PATH, "headers": []}
    scope["eventbunker.request_id"] = "0" * 24
    return Request(scope, receive)


def test_drawing_holds_no_loop_and_few_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing, go_on, most = 0, threading.Event(), 0
    lock = threading.Lock()

    def slow(*_: object) -> str:
        nonlocal drawing, most
        with lock:
            drawing += 1
            most = max(most, drawing)
        assert go_on.wait(30)
        with lock:
            drawing -= 1
        return "<page>"

    monkeypatch.setattr(iframe, "chart_page", slow)

    async def run() -> list[Response]:
        asker: Any = Asker()
        embeds: Any = None
        handlers = IframeHandlers(asker, embeds)
        tasks = [asyncio.create_task(handlers.iframe(request(asyncio.Event()))) for _ in range(6)]

        async def begun() -> bool:
            return drawing == OF_A_PROJECT

        await async_until(begun, 30, "the first drawings")
        for _ in range(100):  # the loop goes on, and starts no more of them
            await asyncio.sleep(0)
        assert drawing == OF_A_PROJECT
        go_on.set()
        return await asyncio.gather(*tasks)

    answers = asyncio.run(run())
    assert [bytes(answer.body) for answer in answers] == [b"<page>"] * 6
    assert most == OF_A_PROJECT


def test_a_drawing_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(iframe, "chart_page", lambda *_: str(go_on.wait(30)))
    monkeypatch.setattr(iframe, "DRAWING_SECONDS", 0.05)

    async def run() -> None:
        asker: Any = Asker()
        embeds: Any = None
        handlers = IframeHandlers(asker, embeds)
        for _ in range(2):  # who comes later, and finds the project's thread taken, is told the same
            with pytest.raises(ApiError) as given_up:
                await handlers.iframe(request(asyncio.Event()))
            assert given_up.value.kind is Kind.UNAVAILABLE
            assert "too long to draw" in given_up.value.detail
        assert await aside("another project", str, 3) == "3"
        go_on.set()
        assert await aside("p", str, 3) == "3", "the thread comes back"

    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_browser_is_shown_that_too_much_waits_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iframe, "chart_page", lambda *_: "<page>" * 20_000)

    async def run() -> Response:
        asker: Any = Asker()
        embeds: Any = Embeds()
        headers = [(b"accept", b"text/html"), (b"host", b"x")]
        asked = request(asyncio.Event())
        asked.scope.update(method="GET", query_string=b"token=t", headers=headers)
        with unsent._waits("p", 200 * 2**20):
            return await IframeHandlers(asker, embeds).iframe(asked)

    answer = asyncio.run(run())
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert b"bytes of answers wait" in answer.body


def test_who_leaves_waits_for_no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        asker: Any = Asker()
        embeds: Any = None
        handlers = IframeHandlers(asker, embeds)
        leaves, go_on = asyncio.Event(), asyncio.Event()

        async def never(*_: Any) -> Result:
            leaves.set()
            await go_on.wait()
            raise AssertionError

        monkeypatch.setattr(asker, "ask", never)
        with pytest.raises(ApiError) as left:
            await handlers.iframe(request(leaves))
        assert left.value.kind is Kind.INVALID_BODY

    asyncio.run(run())
