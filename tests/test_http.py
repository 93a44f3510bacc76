"""What surrounds the handlers: ids, CORS, bounds on bodies and requests, readiness, the description."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import weakref
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from app import http as shared
from app import main
from app.errors import ApiError, Kind
from app.event_schema import EVENT_SCHEMA
from app.gate import Gate, RequestIds
from app.ledger import FATES, FINAL
from app.main import create_app
from app.openapi import openapi
from app.settings import Settings, load
from tests import plain_http
from tests.client import Client
from tests.service import Service, StartService
from tests.waiting import until


def settings_of(tmp_path: Path, toml: str = "") -> Settings:
    path = tmp_path / "deploy.toml"
    path.write_text(toml)
    return load(path, environ={"REDIS_URL": "unix:///nowhere.sock", "CLICKHOUSE_URL": "http://127.0.0.1:1"})


def test_request_ids_never_repeat() -> None:
    first, second = RequestIds(), RequestIds()
    ids = [source.next() for _ in range(50_000) for source in (first, second)]
    assert len(set(ids)) == len(ids)
    assert all(len(one) == 24 and bytes.fromhex(one) for one in ids)


def test_a_clock_before_1970_makes_ids_of_the_same_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.gate.time.time_ns", lambda: -86_400_000_000_000)
    made = RequestIds().next()
    assert len(made) == 24
    assert bytes.fromhex(made)[:6] == bytes(6)


def test_an_error_that_nobody_takes_keeps_nothing_else_alive() -> None:
    """A client may take its answer as late as it likes: an error's frames hold what was made before it."""

    class Large:
        pass

    alive: list[weakref.ref[Large]] = []
    was_gone: list[bool] = []

    async def endpoint(_: Request) -> Response:
        large = Large()
        alive.append(weakref.ref(large))
        try:
            raise ValueError
        except ValueError:
            raise ApiError(Kind.RATE_LIMITED, "no room") from None

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: Message) -> None:
        was_gone.append(alive[0]() is None)

    app = Starlette(routes=[Route("/", endpoint)], exception_handlers={ApiError: main._api_error})
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "http_version": "1.1"}
    ours = {"eventbunker.request_id": "0" * 24, shared.BODY_SECONDS: 1.0}
    asyncio.run(app({**scope, **ours}, receive, send))
    assert was_gone == [True, True]


def answers(app: Any, *requests: httpx.Request) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as http:
            return list(await asyncio.gather(*(http.send(request) for request in requests)))

    return asyncio.run(run())


async def ok(_request: Request) -> Response:
    return PlainTextResponse("ok")


def test_listed_origins_only(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, '[cors]\nallowed_origins = ["https://shop.example"]\nmax_age = 60\n')
    gate = Gate(Starlette(routes=[Route("/", ok)]), settings)
    mine, other, preflight = answers(
        gate,
        httpx.Request("GET", "http://x/", headers={"origin": "https://shop.example"}),
        httpx.Request("GET", "http://x/", headers={"origin": "https://evil.example"}),
        httpx.Request("OPTIONS", "http://x/", headers={"origin": "https://shop.example"}),
    )
    assert mine.headers["access-control-allow-origin"] == "https://shop.example"
    assert mine.headers["vary"] == "Origin"
    assert "access-control-allow-origin" not in other.headers
    assert preflight.status_code == 204
    assert preflight.headers["access-control-max-age"] == "60"


def test_requests_in_flight_are_bounded(tmp_path: Path) -> None:
    gate_open = asyncio.Event()

    async def slow(_request: Request) -> Response:
        await gate_open.wait()
        return PlainTextResponse("ok")

    async def run() -> list[int]:
        app = Gate(
            Starlette(routes=[Route("/", slow)]),
            settings_of(tmp_path, "[limits]\nmax_concurrent_requests = 3\n"),
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as http:
            waiting = [asyncio.create_task(http.get("/")) for _ in range(3)]
            async with asyncio.timeout(5):
                while app._in_flight < 3:  # noqa: ASYNC110  (the gate tells nobody)
                    await asyncio.sleep(0)
            refused = await http.get("/")
            gate_open.set()
            served = [(await one).status_code for one in waiting]
            again = await http.get("/")
        assert refused.json()["error"] == "Service unavailable"
        assert refused.headers["retry-after"] == "1"
        return [*served, refused.status_code, again.status_code]

    assert asyncio.run(run()) == [200, 200, 200, 503, 200]


def body_of(
    messages: list[Message], limit: int = 10, headers: list[tuple[bytes, bytes]] | None = None
) -> bytes:
    """`read_body` fed with these ASGI messages; a further one never comes."""
    scope: Scope = {"type": "http", "http_version": "1.1", "headers": headers or []}

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    return asyncio.run(shared.read_body(scope, receive, limit))


def piece(content: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": content, "more_body": more}


def test_a_body_in_one_piece_is_not_copied() -> None:
    content = b"0123456789"
    assert body_of([piece(content, more=False)]) is content


def test_a_body_in_pieces_is_joined() -> None:
    assert body_of([piece(b"01", more=True), piece(b"", more=True), piece(b"23", more=False)]) == b"0123"


@pytest.mark.parametrize(
    ("messages", "headers"),
    [
        ([], [(b"content-length", b"11")]),  # refused by its own word: not one byte is asked for
        ([piece(b"x" * 11, more=False)], []),
        ([piece(b"x" * 6, more=True), piece(b"x" * 6, more=True)], []),  # and the rest never comes
        ([piece(b"x" * 6, more=True), piece(b"x" * 6, more=False)], []),
    ],
)
def test_a_body_beyond_the_limit_is_refused_as_soon_as_that_is_known(
    messages: list[Message], headers: list[tuple[bytes, bytes]]
) -> None:
    with pytest.raises(ApiError) as caught:
        body_of(messages, headers=headers)
    assert caught.value.kind is Kind.BODY_TOO_LARGE


@pytest.mark.parametrize("messages", [[], [piece(b"x", more=True)]])
def test_a_sender_that_stalls_is_told_so(messages: list[Message], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "BODY_DEADLINE_SECONDS", 0.05)
    with pytest.raises(ApiError) as caught:
        body_of(messages)
    assert caught.value.kind is Kind.REQUEST_TIMEOUT


def test_a_client_that_leaves_is_no_bug() -> None:
    with pytest.raises(ApiError):
        body_of([piece(b"x", more=True), {"type": "http.disconnect"}])


def test_the_description_equals_the_routes(tmp_path: Path) -> None:
    gate = create_app(settings_of(tmp_path))
    assert isinstance(gate, Gate)
    assert isinstance(gate._inner, Starlette)
    routes = {
        (route.path, method.lower())
        for route in gate._inner.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    paths = openapi()["paths"]
    assert isinstance(paths, dict)
    assert {(path, method) for path, methods in paths.items() for method in methods} == routes


def test_a_bug_is_a_500_in_the_one_shape(tmp_path: Path) -> None:
    """Nothing of the exception reaches the client."""
    app = create_app(settings_of(tmp_path))
    assert isinstance(app, Gate)

    async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError("a secret")

    assert isinstance(app._inner, Starlette)
    app._inner.router.routes.insert(0, Route("/broken", broken))

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            return await http.get("/broken")

    response = asyncio.run(run())
    assert response.status_code == 500
    assert response.json()["error"] == "Error..."
    assert "secret" not in response.text
    assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.service
def test_metrics_count_what_happened(client: Client) -> None:
    def value(name: str) -> float:
        text = client.http.get("/metrics").text
        lines = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(lines[0].split()[1])

    before = value("eventbunker_events_accepted_total")
    for _ in range(3):
        client.track(event_name="metrics")
    assert client.post(b"{").status_code == 400
    assert value("eventbunker_events_accepted_total") == before + 3


@pytest.mark.service
def test_the_ledger_balances_when_the_stream_is_empty(client: Client) -> None:
    """appended = the sum of all final fates: nothing else happens to an event."""
    for _ in range(5):
        client.track(event_name="ledger")

    def balanced() -> bool:
        text = client.http.get("/metrics").text
        ledger = {
            fate: float(line.split()[1])
            for fate in FATES
            for line in text.splitlines()
            if line.startswith(f'eventbunker_ledger_events{{fate="{fate}"')
        }
        entries = next(
            float(line.split()[1])
            for line in text.splitlines()
            if line.startswith("eventbunker_stream_entries{")
        )
        return entries == 0 and ledger["appended"] == sum(ledger[fate] for fate in FINAL) > 0

    until(balanced, 10, "the ledger")


def ready(service: Service) -> bool:
    return plain_http.get(f"{service.url}/readyz?strict", timeout=10).status_code == 200


@pytest.mark.service
def test_readiness_proves_consuming_not_only_breathing(start_service: StartService) -> None:
    """A stopped drain still has a process id; a stopped store still has a port."""
    one = start_service()
    for role in ("drain", "store"):
        pid = one.kill(role, signal.SIGSTOP)
        until(lambda: not ready(one), 20, f"/readyz?strict with a stopped {role}")
        answer = plain_http.get(f"{one.url}/readyz", timeout=10)  # what a load balancer asks
        assert answer.status_code == 200
        assert answer.json() == {"ready": True, "degraded": ["drain 0"]}
        assert plain_http.get(f"{one.url}/livez", timeout=10).status_code == 200
        os.kill(pid, signal.SIGCONT)
        until(lambda: ready(one), 20, f"/readyz?strict after the {role} went on")


@pytest.mark.service
def test_redis_that_hangs_is_the_spools_business(start_service: StartService) -> None:
    """Known keys and names go on; what cannot be looked up is a 503, never a 401; nothing is lost."""
    one = start_service(deploy="[spool]\nredis_timeout = 0.5\n")
    key = {"x-eventbunker-write-key": one.keys["write_key"]}
    assert plain_http.post(f"{one.url}/post", json={"event_name": "e"}, headers=key).status_code == 200
    pid = one.kill("redis", signal.SIGSTOP)
    try:
        response = plain_http.post(f"{one.url}/post", json={"event_name": "e"}, headers=key, timeout=30)
        assert response.status_code == 200
        new = plain_http.post(f"{one.url}/post", json={"event_name": "new"}, headers=key, timeout=30)
        assert new.status_code == 503
        assert int(new.headers["retry-after"]) >= 1
        assert new.json()["error"] == "Service unavailable"
        assert "othing was kept" in new.json()["detail"]
        unknown = plain_http.post(
            f"{one.url}/post", json={}, headers={"x-eventbunker-write-key": "eb_w_x"}, timeout=30
        )
        assert unknown.status_code == 503  # never 401: it may be valid
    finally:
        os.kill(pid, signal.SIGCONT)
    one.wait_ready()
    with Client(one.keys).http as http:
        client = Client(one.keys, http)
        until(lambda: client.ask(time_period="today").status_code == 200, 30, "the key can be looked up")
        until(lambda: client.count("e") == 2, 30, "the event out of the spool")


def test_the_example_in_the_schema_is_json() -> None:
    assert json.loads(msgspec.json.encode(EVENT_SCHEMA)) == EVENT_SCHEMA


@pytest.mark.service
def test_an_early_answer_leaves_the_connection_usable(client: Client) -> None:
    """Head and body in separate packets: the 401 is known before the body is there."""
    parts = urlsplit(client.keys["url"])
    head = (
        b"POST /post HTTP/1.1\r\nhost: x\r\nx-eventbunker-write-key: nonsense\r\ncontent-length: 20\r\n\r\n"
    )
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        stream = connection.makefile("rb")
        for _ in range(20):
            connection.sendall(head)
            connection.sendall(b"x" * 20)
            assert stream.readline().startswith(b"HTTP/1.1 401")
            length = 0
            while (line := stream.readline()) != b"\r\n":
                assert line.lower() != b"connection: close\r\n"
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            stream.read(length)


@pytest.mark.service
def test_a_body_that_nobody_will_read_closes_the_connection_and_says_so(client: Client) -> None:
    parts = urlsplit(client.keys["url"])
    head = b"POST /post HTTP/1.1\r\nhost: x\r\nx-eventbunker-write-key: nonsense\r\ncontent-length: 99999999\r\n\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(head)
        answer = b""
        while piece_ := connection.recv(65_536):
            answer += piece_
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"connection: close" in answer.lower()
