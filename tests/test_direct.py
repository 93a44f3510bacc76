"""What the hot path leaves out, and what must hold all the same: routes, bugs, deadlines, counts, leaving clients."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from prometheus_client import REGISTRY, CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from app import http as shared
from app import metrics
from app.errors import ApiError, Kind
from app.first_step import go_on
from app.gate import Gate
from app.main import create_app
from tests.test_http import answers, settings_of

T = TypeVar("T")


def test_a_direct_endpoint_is_the_one_that_starlette_would_call(tmp_path: Path) -> None:
    gate = create_app(settings_of(tmp_path))
    assert isinstance(gate, Gate)
    assert isinstance(gate._inner, Starlette)
    routes = {route.path: route for route in gate._inner.routes if isinstance(route, Route)}
    assert gate._direct
    for path, endpoint in gate._direct.items():
        assert routes[path].endpoint is endpoint
        assert routes[path].methods == {"POST"}


def test_other_methods_of_a_direct_path_are_starlettes_to_refuse(tmp_path: Path) -> None:
    (refused,) = answers(create_app(settings_of(tmp_path)), httpx.Request("GET", "http://x/post"))
    assert refused.status_code == 405
    assert refused.headers["allow"] == "OPTIONS, POST"
    assert refused.json()["code"] == "method_not_allowed"
    assert refused.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("direct", [True, False])
def test_a_bug_is_answered_in_our_shape(tmp_path: Path, *, direct: bool) -> None:
    async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ZeroDivisionError

    class Endpoint:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await broken(scope, receive, send)

    app = create_app(settings_of(tmp_path))
    assert isinstance(app, Gate)
    if direct:
        app._direct = {"/post": Endpoint()}
    else:
        app._direct = {}
        assert isinstance(app._inner, Starlette)
        app._inner.router.routes.insert(0, Route("/post", Endpoint(), methods=["POST"]))

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            return await http.post("/post", content=b"{}")

    answer = asyncio.run(run())
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal_error"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["connection"] == "close"  # nobody has read the body
    assert answer.headers["access-control-allow-origin"] == "*"


def test_a_bug_behind_the_beginning_of_an_answer_adds_nothing_to_it(tmp_path: Path) -> None:
    async def endpoint(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope: Scope = {
        **{"type": "http", "http_version": "1.1", "method": "POST", "path": "/post"},
        **{"headers": [], "query_string": b""},
    }
    gate = Gate(Starlette(), settings_of(tmp_path), {"/post": endpoint})
    with pytest.raises(ZeroDivisionError):
        asyncio.run(gate(scope, receive, send))
    assert [message["type"] for message in sent] == ["http.response.start"]


@pytest.mark.parametrize("pieces", [[b"{}"], [b"{}", b""], [b"", b"{}", b""]])
def test_a_body_that_is_there_is_read_without_a_turn_of_the_loop(pieces: list[bytes]) -> None:
    left = list(pieces)

    async def receive() -> Message:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    scope: Scope = {"type": "http", "http_version": "1.1", "headers": []}
    with pytest.raises(StopIteration) as read:
        shared.read_body(scope, receive, 10).send(None)
    assert read.value.value == b"{}"
    assert not left


@pytest.mark.parametrize("waits", [0, 1, 2])
def test_a_body_in_pieces_may_wait_anywhere(waits: int) -> None:
    left = [b"01", b"23", b"45"]

    async def receive() -> Message:
        if len(left) == 3 - waits:
            await asyncio.sleep(0)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    scope: Scope = {"type": "http", "http_version": "1.1", "headers": []}
    assert asyncio.run(shared.read_body(scope, receive, 10)) == b"012345"


def test_a_body_that_does_not_come_has_a_deadline() -> None:
    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    scope: Scope = {"type": "http", "http_version": "1.1", "headers": [], shared.BODY_SECONDS: 0.01}
    with pytest.raises(ApiError) as refused:
        asyncio.run(shared.read_body(scope, receive, 10))
    assert refused.value.kind is Kind.REQUEST_TIMEOUT


def begin(work: Coroutine[Any, Any, T]) -> Awaitable[T]:
    return go_on(work, work.send(None))


def test_a_coroutine_that_was_begun_goes_on_where_it_waited() -> None:
    async def fails() -> int:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    async def run() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()
        rest = begin(queue.get())
        asyncio.get_running_loop().call_soon(queue.put_nowait, 1)
        assert await rest == 1
        with pytest.raises(ZeroDivisionError):
            await begin(fails())

    asyncio.run(run())


def test_a_coroutine_that_was_begun_is_cancelled_like_others() -> None:
    async def run() -> None:
        cleaned: list[str] = []

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)  # cleaning up may wait too
                cleaned.append("yes")

        async def outer() -> None:
            await begin(work())

        task = asyncio.create_task(outer())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cleaned == ["yes"]

    asyncio.run(run())


def test_many_values_are_observed_as_one_by_one() -> None:
    values = [0.0001, 0.001, 0.0011, 0.3, 10.0, 11.0, 0.3]
    many, one = (
        metrics.ManyHistogram("h", "h", ["route"], buckets=metrics.FAST_SECONDS, registry=CollectorRegistry())
        for _ in range(2)
    )
    many.labels("/post").observe_all(values)
    for value in values:
        one.labels("/post").observe(value)
    skip = "_created"

    def samples(histogram: metrics.ManyHistogram) -> list[object]:
        (family,) = histogram.collect()
        return [
            (s.name, s.labels, pytest.approx(s.value)) for s in family.samples if not s.name.endswith(skip)
        ]

    assert samples(many) == samples(one)


def test_accepted_requests_are_counted_at_the_end_of_the_turn() -> None:
    async def run() -> None:
        def value(name: str, **labels: str) -> float:
            return REGISTRY.get_sample_value(f"eventbunker_{name}", labels) or 0.0

        before = value("events_accepted_total")
        accepted = metrics.Accepted("/of-this-test")
        accepted.add(0.002)
        accepted.add(0.004, 3)
        await asyncio.sleep(0)
        assert value("events_accepted_total") == before + 4
        assert value("http_requests_total", route="/of-this-test", status="200") == 2
        assert value("http_request_duration_seconds_count", route="/of-this-test") == 2
        accepted.add(0.002)
        await asyncio.sleep(0)
        assert value("http_requests_total", route="/of-this-test", status="200") == 3

    asyncio.run(run())
