"""The query endpoint: the order of its steps, its limits, and its trip through the real store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from app import ask
from app.ask import Asker
from app.errors import ApiError, Kind
from app.grant import Grant, KeyType
from app.read import ReadHandlers
from app.scope import Erased
from app.settings import Limits, Warehouse
from app.store import Result, Store, StoreRefused, StoreUnavailable
from tests.query_engine import MIGRATIONS
from tests.store_fixture import StoreServer, start_store, store_database, store_server  # noqa: F401
from workers.embedded_config import Limits as EmbeddedLimits

COUNT = {"time_period": "today", "computations": [{"function": "count"}]}
DEADLINE = 20.0


class Registry:
    """Knows one key."""

    async def authorise(self, secret: str | None, key_type: KeyType) -> Grant:
        if secret != "eb_q_right" or key_type is not KeyType.QUERY:
            raise ApiError(Kind.INVALID_QUERY_KEY, "Unknown key.")
        return Grant(KeyType.QUERY, "k", "a", "p")


class Clock:
    """Freshness that can fail, and tells when it was asked."""

    def __init__(self, steps: list[str]) -> None:
        self.steps = steps
        self.fresh = 5
        self.error: Exception | None = None

    async def fresh_as_of(self) -> int:
        self.steps.append("fresh")
        if self.error is not None:
            raise self.error
        return self.fresh


class Nothing:
    """Nothing was erased."""

    async def hidden(self, project_id: str) -> tuple[Erased, ...]:
        return ()


class FakeStore:
    """Answers with one row, or as told."""

    def __init__(self, steps: list[str]) -> None:
        self.steps = steps
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def ask(self, sql: str, parameters: Mapping[str, Any], **options: Any) -> Result:
        self.steps.append("ask")
        if self.error is not None:
            raise self.error
        if self.gate is not None:
            await self.gate.wait()
        return Result(["o0"], ["String"], [["3"]])


class Bench:
    """The handler with everything around it replaced, but for what is given."""

    def __init__(self, store: Any = None, **limits: Any) -> None:
        self.steps: list[str] = []
        self.leaves = asyncio.Event()
        self.clock = Clock(self.steps)
        self.store = FakeStore(self.steps)
        settings: Any = SimpleNamespace(limits=Limits(**limits), store=Warehouse())
        registry: Any = Registry()
        asked: Any = store or self.store
        self.handlers = ReadHandlers(Asker(registry, asked, self.clock, Nothing(), settings))

    async def post(self, body: Any, secret: str | None = "eb_q_right") -> dict[str, Any]:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()

        is_read = False

        async def receive() -> dict[str, Any]:
            nonlocal is_read
            if is_read:  # as servers do: the next message is the client's leaving
                await self.leaves.wait()
                return {"type": "http.disconnect"}
            is_read = True
            self.steps.append("body")
            return {"type": "http.request", "body": content, "more_body": False}

        headers = [] if secret is None else [(b"x-eventbunker-query-key", secret.encode())]
        request = Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)
        response = await asyncio.wait_for(self.handlers.query_json(request), DEADLINE)
        answer: dict[str, Any] = json.loads(bytes(response.body))
        return answer


def test_the_key_comes_before_the_body_and_freshness_before_the_rows() -> None:
    bench = Bench()
    answer = asyncio.run(bench.post(COUNT))
    assert bench.steps == ["body", "fresh", "ask"]
    assert answer["data"] == [{"count": 3}]
    assert (answer["row_count"], answer["fresh_as_of"]) == (1, 5)
    assert set(answer["time_period"]) == {"start", "end"}
    assert answer["elapsed_ms"] >= 0

    bench = Bench()
    with pytest.raises(ApiError) as caught:
        asyncio.run(bench.post(b"{", secret="eb_q_wrong"))
    assert caught.value.kind is Kind.INVALID_QUERY_KEY
    assert bench.steps == []


def test_a_query_ends_when_its_client_leaves_and_frees_its_place() -> None:
    async def run() -> None:
        bench = Bench(max_concurrent_queries=1)
        bench.store.gate = asyncio.Event()
        left = asyncio.create_task(bench.post(COUNT))
        async with asyncio.timeout(DEADLINE):
            while "ask" not in bench.steps:  # noqa: ASYNC110  (the fake tells nobody)
                await asyncio.sleep(0)
        bench.leaves.set()
        with pytest.raises(ApiError):
            await left
        bench.leaves.clear()
        bench.steps.clear()
        bench.store.gate.set()
        assert (await bench.post(COUNT))["data"] == [{"count": 3}]

    asyncio.run(run())


def test_a_bad_query_never_reaches_the_store() -> None:
    bench = Bench(max_request_bytes=1024)
    for body, kind in ((b"{", Kind.INVALID_BODY), (b" " * 1025, Kind.BODY_TOO_LARGE)):
        with pytest.raises(ApiError) as caught:
            asyncio.run(bench.post(body))
        assert caught.value.kind is kind
    assert "ask" not in bench.steps


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (StoreUnavailable("gone"), Kind.UNAVAILABLE, "does not answer"),
        (StoreRefused(159, "Timeout exceeded"), Kind.QUERY_TOO_EXPENSIVE, "limit of time"),
        (StoreRefused(241, "Query memory limit exceeded"), Kind.QUERY_TOO_EXPENSIVE, "limit of memory"),
        (StoreRefused(396, "too many bytes"), Kind.QUERY_TOO_EXPENSIVE, "size of the answer"),
        (StoreRefused(241, "(total) memory limit exceeded"), Kind.UNAVAILABLE, "does not answer"),
        *(
            (
                StoreRefused(code, "words of theirs"),
                Kind.UNAVAILABLE,
                "Too many queries are running; try again.",
            )
            for code in (202, 745, 778, 1020)
        ),
        (StoreRefused(210, "network"), Kind.UNAVAILABLE, "does not answer"),
        (StoreRefused(158, "Limit for rows exceeded"), Kind.QUERY_TOO_EXPENSIVE, "limit of rows"),
        (StoreRefused(307, "Limit for bytes exceeded"), Kind.QUERY_TOO_EXPENSIVE, "limit of bytes read"),
        (StoreRefused(777, "Evicting the largest"), Kind.UNAVAILABLE, "others together took too much"),
    ],
)
def test_what_the_client_is_told_of_the_stores_errors(error: Exception, kind: Kind, words: str) -> None:
    bench = Bench()
    bench.store.error = error
    with pytest.raises(ApiError) as caught:
        asyncio.run(bench.post(COUNT))
    assert caught.value.kind is kind
    assert words in caught.value.detail
    assert (caught.value.retry_after_seconds is not None) is (kind is Kind.UNAVAILABLE)


def test_a_refusal_that_is_our_bug_is_not_dressed_up() -> None:
    bench = Bench()
    bench.store.error = StoreRefused(62, "Syntax error")
    with pytest.raises(StoreRefused):
        asyncio.run(bench.post(COUNT))


def test_queries_are_answered_while_the_stream_is_away() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.clock.error = ConnectionError()
        assert (await bench.post(COUNT))["fresh_as_of"] == 0
        bench.clock.error = None
        assert (await bench.post(COUNT))["fresh_as_of"] == 5
        bench.clock.error = ConnectionError()
        assert (await bench.post(COUNT))["fresh_as_of"] == 5

    asyncio.run(scenario())


def test_more_queries_than_places_wait_and_then_are_refused() -> None:
    async def scenario() -> None:
        bench = Bench(max_concurrent_queries=1, query_timeout=0.2)
        bench.store.gate = asyncio.Event()
        first = asyncio.create_task(bench.post(COUNT))
        second = asyncio.create_task(bench.post(COUNT))
        with pytest.raises(ApiError) as caught:
            await second
        assert caught.value.kind is Kind.UNAVAILABLE
        assert bench.steps.count("ask") == 1
        third = asyncio.create_task(bench.post(COUNT))
        bench.store.gate.set()
        assert (await first)["row_count"] == 1
        assert (await third)["row_count"] == 1  # the place was given back

    asyncio.run(scenario())


def test_the_edge_waits_as_long_as_the_embedded_store_lets_a_question_wait() -> None:
    assert EmbeddedLimits().queue_seconds == ask.QUEUE_SECONDS


@pytest.fixture(scope="module")
def narrow_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """One that answers one question at a time, with the events table; others wait two seconds for it."""
    limits = json.dumps({"questions": 1, "questions_of_one": 1, "queue_seconds": 2.0})
    server = start_store(tmp_path_factory.mktemp("narrow") / "data", "--limits", limits)
    try:
        server.text("CREATE DATABASE narrow")
        for migration in sorted(MIGRATIONS.glob("*.sql")):
            server.text(migration.read_text(), database="narrow")
        yield server
    finally:
        server.stop()


async def asked_while_another_runs(server: StoreServer, seconds: float) -> dict[str, Any]:
    """The answer to a question that comes while another one has the only place, for as long as that."""
    store = Store(server.url, database="narrow", username="default", password=server.token)
    other: dict[str, str | int | float] = {
        "max_execution_time": seconds,
        "timeout_overflow_mode": "break",
        "workload": ask.WORKLOAD,
        "function_sleep_max_microseconds_per_block": 0,
    }
    sleeps = "SELECT sum(sleepEachRow(0.05)) AS asked FROM numbers(1000) SETTINGS max_block_size = 1"
    running = "SELECT count() FROM system.processes WHERE Settings['workload'] = 'questions'"
    try:
        before = asyncio.create_task(store.ask(sleeps, settings=other, timeout_seconds=20.0))
        async with asyncio.timeout(DEADLINE):
            while (await store.ask(running)).rows == [[0]]:
                assert not before.done()
        try:
            return await Bench(store, query_timeout=1.0).post(COUNT)
        finally:
            before.cancel()
            await asyncio.gather(before, return_exceptions=True)
            async with asyncio.timeout(DEADLINE):
                while (await store.ask(running)).rows != [[0]]:
                    pass
    finally:
        await store.close()


def test_who_waits_too_long_for_the_stores_lane_is_told_that_queries_are_running(
    narrow_store: StoreServer,
) -> None:
    with pytest.raises(ApiError) as caught:
        asyncio.run(asked_while_another_runs(narrow_store, 15.0))
    assert caught.value.kind is Kind.UNAVAILABLE
    assert caught.value.detail == "Too many queries are running; try again."
    assert caught.value.retry_after_seconds == 1


def test_what_a_question_waits_in_the_store_is_not_taken_from_its_time(
    narrow_store: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for longer than it may take, and is answered."""
    monkeypatch.setattr("app.store.ANSWER_MARGIN_SECONDS", 0.1)
    assert asyncio.run(asked_while_another_runs(narrow_store, 1.5))["data"] == [{"count": 0}]


def test_through_the_real_store(store_server: StoreServer, store_database: str) -> None:  # noqa: F811
    for migration in sorted(MIGRATIONS.glob("*.sql")):
        store_server.text(migration.read_text(), database=store_database)
    body = '{"event_name": "buy", "plan": "a\'b\\\\", "n": 9007199254740993, "list": [1], "none": null}'
    escaped = body.replace("\\", "\\\\").replace("'", "\\'")
    store_server.text(
        "INSERT INTO events (project_id, event_name, event_time, time_recorded, unique_req_id, body) "
        f"VALUES ('p', 'buy', now64(3), now64(3), unhex('{'ab' * 16}'), '{escaped}')",
        database=store_database,
    )

    async def scenario() -> None:
        store = Store(
            store_server.url, database=store_database, username="default", password=store_server.token
        )
        try:
            bench = Bench(store)
            plan = {"field_name": "plan", "op": "equals", "value": "a'b\\"}
            asked = {
                "time_period": "minus_5_minutes",
                "group_by": ["plan", "missing"],
                "computations": [{"function": "sum", "field_name": "n"}, {"function": "count"}],
                "filters": [plan, {"field_name": "event_name", "op": "in", "value": ["buy", "sell"]}],
            }
            rows = (await bench.post(asked))["data"]
            assert rows == [{"plan": "a'b\\", "missing": None, "sum_n": 2**53 + 1, "count": 1}]
            (event,) = (await bench.post({"time_period": "today", "filters": [plan]}))["data"]
            assert (event["n"], event["list"], event["none"]) == (2**53 + 1, [1], None)
            assert event["unique_req_id"] == "ab" * 16
            assert "customer_identifier" in event
        finally:
            await store.close()

    asyncio.run(scenario())
