"""A usual event is taken without a task: the answer and what is kept are those of the other way, or nothing is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from starlette.types import Message, Scope

from app import redis_client
from app.errors import ApiError, Kind
from app.gate import Gate
from app.grant import KeyType
from app.http import Headers
from app.main import create_app
from app.registry import Registry
from app.settings import Settings
from app.stream import Record
from app.track import Track
from tests.pipeline_kit import make_keys, queued
from tests.redis_fixture import RedisServer, start_redis
from tests.registries import new_key, registry, settings_for

EVENT = (
    b'{"event_name":"buy","timestamp":"2026-06-26T14:48:00.000","price":12.5,"tags":["a","b"],"is_new":true}'
)
Answer = tuple[int, bytes, Headers]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    started = start_redis(tmp_path)
    yield started
    started.stop()


class Edge:
    """The app as an edge has it, and what its stream holds."""

    def __init__(self, app: Gate, redis: Redis, settings: Settings, registry: Registry) -> None:
        self.app = app
        self.track = cast(Track, app._direct["/post"])
        self.registry = registry
        self._redis = redis
        self._keys = make_keys(settings)

    async def records(self) -> list[Record]:
        """What the stream holds since the last look, without what tells one event from the next."""
        found = await queued(self._redis, self._keys)
        await self._redis.xtrim(self._keys.entries, maxlen=0, approximate=False)
        return [msgspec.structs.replace(one, request_id=b"", time_recorded=0) for one in found]

    def begin(self, scope: Scope, body: bytes) -> asyncio.Future[Answer] | None:
        """The answer that will come, or None where it is not taken."""
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        taken = self.app.begin(scope, body, lambda *answer: answered.set_result(answer))
        assert not answered.done()  # in a later turn
        return answered if taken else None

    async def call(self, scope: Scope, body: bytes) -> Answer:
        """The answer of the other way."""
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        start, content = sent
        return start["status"], content["body"], start["headers"]


@contextlib.asynccontextmanager
async def edge(server: RedisServer, directory: Path, deploy: str = "") -> AsyncIterator[Edge]:
    settings = settings_for(server.url, directory, f"{deploy}\n[observability]\ncanary_interval = 0\n")
    app = cast(Gate, create_app(settings))
    started, stop = asyncio.Event(), asyncio.Event()

    async def receive() -> Message:
        if not started.is_set():
            return {"type": "lifespan.startup"}
        await stop.wait()
        return {"type": "lifespan.shutdown"}

    async def send(_: Message) -> None:
        started.set()

    life = asyncio.create_task(app({"type": "lifespan"}, receive, send))
    redis = redis_client.connect(settings)
    try:
        await started.wait()
        async with registry(settings) as opened:
            yield Edge(app, redis, settings, opened)
    finally:
        stop.set()
        await life
        await redis.aclose()


def scope_of(secret: str, *more: tuple[bytes, bytes], **other: object) -> Scope:
    """What a server makes of a request."""
    headers = [(b"host", b"x"), (b"x-eventbunker-write-key", secret.encode()), *more]
    return {
        **{"type": "http", "http_version": "1.1", "method": "POST", "path": "/post", "raw_path": b"/post"},
        **{"query_string": b"", "headers": headers, "client": ("127.0.0.1", 5000), "root_path": ""},
        **other,
    }


def comparable(answer: Answer) -> object:
    """Without ids and times."""
    status, body, headers = answer
    named = {name: value for name, value in headers if name != b"x-request-id"}
    assert b"x-request-id" in dict(headers)
    assert named[b"content-length"] == b"%d" % len(body)
    told = msgspec.json.decode(body)
    for name in ("unique_req_id", "time_recorded", "request_id"):
        if name in told:
            told[name] = type(told[name])
    return status, told, named


def with_edge(
    server: RedisServer, directory: Path, test: Callable[[Edge], Awaitable[None]], deploy: str = ""
) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60), edge(server, directory, deploy) as one:
            await test(one)

    asyncio.run(bounded())


USUAL: dict[str, tuple[tuple[tuple[bytes, bytes], ...], bytes]] = {
    "plain": ((), EVENT),
    "of a page": (((b"origin", b"https://a.example"), (b"referer", b"https://a.example/x")), EVENT),
    "of a browser": (((b"user-agent", b"Mozilla/5.0 (X11)"),), EVENT),
    "with an id in the header": (((b"idempotency-key", b'"k1"'),), EVENT),
    "with an id in the body": ((), EVENT.replace(b"{", b'{"event_id":"k2",', 1)),
    "of a customer": ((), EVENT.replace(b"{", b'{"customer_identifier":"c",', 1)),
    "with white space": ((), b" \n" + EVENT + b"\n"),
}


@pytest.mark.parametrize("binding", [{}, {"customer_identifier": "bound"}, {"allow_client_context": True}])
@pytest.mark.parametrize("shards", [1, 3])
def test_both_ways_lead_to_the_same(
    server: RedisServer, tmp_path: Path, binding: dict[str, Any], shards: int
) -> None:
    async def test(one: Edge) -> None:
        _, _, secret = await new_key(one.registry, **binding)
        for what, (headers, body) in USUAL.items():
            told = await one.call(
                scope_of(secret, *headers), body
            )  # its names and its key are known from now on
            kept = await one.records()
            answered = one.begin(scope_of(secret, *headers), body)
            assert answered is not None, what
            assert comparable(await answered) == comparable(told), what
            if shards == 1:
                assert kept
                assert await one.records() == kept, what

    with_edge(server, tmp_path, test, f"[[queues.producers]]\nshards = {shards}\n")


def test_what_is_not_usual_is_left_alone(server: RedisServer, tmp_path: Path) -> None:
    async def test(one: Edge) -> None:
        project, _, secret = await new_key(one.registry)
        query = (await one.registry.accounts.create_key(project, KeyType.QUERY)).api_key
        await one.call(scope_of(secret), EVENT)
        await one.records()
        odd: dict[str, tuple[Scope, bytes]] = {
            "another method": (scope_of(secret, method="GET"), EVENT),
            "another path": (scope_of(secret, path="/batch"), EVENT),
            "an unknown path": (scope_of(secret, path="/posts"), EVENT),
            "parameters": (scope_of(secret, query_string=b"ack=stored"), EVENT),
            "no key": (scope_of(secret, headers=[(b"host", b"x")]), EVENT),
            "an unknown key": (scope_of(f"{secret}x"), EVENT),
            "a key of another type": (scope_of(query), EVENT),
            "no JSON": (scope_of(secret), b"{"),
            "nothing": (scope_of(secret), b""),
            "a broken rule": (scope_of(secret), EVENT.replace(b"12.5", b"{}").replace(b"buy", b"b u y")),
            "a new event name": (scope_of(secret), EVENT.replace(b"buy", b"sell")),
            "a new field": (scope_of(secret), EVENT.replace(b"price", b"prices")),
            "too many bytes": (scope_of(secret), EVENT + b" " * 70_000),
            "a coding": (scope_of(secret, (b"content-encoding", b"gzip")), EVENT),
            "gzip that does not say so": (scope_of(secret), b"\x1f\x8b" + EVENT),
            "two ids": (scope_of(secret, (b"idempotency-key", b"a"), (b"idempotency-key", b"b")), EVENT),
            "an id that differs": (
                scope_of(secret, (b"idempotency-key", b"a")), EVENT.replace(b"{", b'{"event_id":"b",', 1)
            ),
        }  # fmt: skip
        for what, (scope, body) in odd.items():
            assert one.begin(scope, body) is None, what
        one.app._in_flight = one.app._max_in_flight
        assert one.begin(scope_of(secret), EVENT) is None
        before = value("http_requests_total", route="/post", status="503")
        rejected = value("events_rejected_total", code="service_unavailable")
        assert (await one.call(scope_of(secret), EVENT))[0] == 503
        assert value("http_requests_total", route="/post", status="503") == before + 1
        assert value("events_rejected_total", code="service_unavailable") == rejected + 1
        one.app._in_flight = 0
        assert await one.records() == []
        answered = one.begin(scope_of(secret), EVENT)  # and only what differs made the difference
        assert answered is not None
        assert one.app._in_flight == 1
        assert (await answered)[0] == 200
        assert one.app._in_flight == 0

    with_edge(server, tmp_path, test)


def test_a_key_s_rate_counts_each_event_once(server: RedisServer, tmp_path: Path) -> None:
    async def test(one: Edge) -> None:
        _, _, secret = await new_key(one.registry, rate_limit=5)
        assert (await one.call(scope_of(secret), EVENT))[0] == 200
        answers = [one.begin(scope_of(secret), EVENT) for _ in range(8)]
        got = [await one_answer for one_answer in answers if one_answer is not None]
        assert len(got) == 8
        statuses = [status for status, _, _ in got]
        assert statuses[:4] == [200] * 4
        assert set(statuses[4:]) <= {200, 429}
        assert 429 in statuses
        refused = next(answer for answer in got if answer[0] == 429)
        assert dict(refused[2])[b"retry-after"] == b"1"
        assert dict(refused[2])[b"access-control-allow-origin"] == b"*"
        assert comparable(refused) == comparable(await one.call(scope_of(secret), EVENT))
        assert len(await one.records()) == 1 + statuses.count(200)

    with_edge(server, tmp_path, test)


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"eventbunker_{name}", labels) or 0.0


def test_what_cannot_be_kept_is_answered_like_the_other_way(server: RedisServer, tmp_path: Path) -> None:
    async def test(one: Edge) -> None:
        _, _, secret = await new_key(one.registry)
        await one.call(scope_of(secret), EVENT)
        before = value("http_requests_total", route="/post", status="503")
        one.track._appenders[0]._max_pending_bytes = 1
        answered = one.begin(scope_of(secret), EVENT)
        assert answered is not None
        refused = await answered
        assert refused[0] == 503
        assert dict(refused[2])[b"retry-after"] == b"1"
        assert comparable(refused) == comparable(await one.call(scope_of(secret), EVENT))
        assert value("http_requests_total", route="/post", status="503") == before + 2
        assert one.app._in_flight == 0

    with_edge(server, tmp_path, test)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ApiError(Kind.UNAVAILABLE, "Redis is out of memory. Nothing was kept", retry_after_seconds=2), 503, "service_unavailable"),
        (ZeroDivisionError(), 500, "internal_error"),
    ],
)  # fmt: skip
def test_a_group_that_fails_is_told_to_each_of_its_senders(
    server: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    error: Exception,
    status: int,
    code: str,
) -> None:
    async def test(one: Edge) -> None:
        _, _, secret = await new_key(one.registry)
        await one.call(scope_of(secret), EVENT)

        async def fails(_group: object) -> str:
            raise error

        monkeypatch.setattr(one.track._appenders[0], "_keep", fails)
        before = value("http_requests_total", route="/post", status=str(status))
        answers = [one.begin(scope_of(secret), EVENT) for _ in range(3)]
        other = asyncio.create_task(one.track._appenders[0].append(b"x", "p|1"))
        for answered in answers:
            assert answered is not None
            told, body, _ = await answered
            assert told == status
            assert msgspec.json.decode(body)["code"] == code
        with pytest.raises(type(error)):
            await other
        assert value("http_requests_total", route="/post", status=str(status)) == before + 3
        assert one.app._in_flight == 0

    with_edge(server, tmp_path, test)
