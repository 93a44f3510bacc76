"""/readyz tells a load balancer whether this edge keeps events, and monitoring everything else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.routing import Route

from app.partition import Freshness, Partition
from app.probes import REDIS_SECONDS, Probes
from app.stream import Keys
from tests.waiting import async_until


class Edge:
    """What the rest of an edge would say of itself."""

    def __init__(self) -> None:
        self.refuses = ""
        self.stops = False

    def refusal(self) -> str:
        return self.refuses


def readyz(edge: Edge, redis_url: str, query: str = "") -> httpx.Response:
    async def ask() -> httpx.Response:
        async with served(edge, redis_url) as (http, _):
            return await http.get(f"/readyz?{query}")

    return asyncio.run(ask())


@contextlib.asynccontextmanager
async def served(edge: Edge, redis_url: str) -> AsyncIterator[tuple[httpx.AsyncClient, Redis]]:
    redis = Redis.from_url(redis_url)
    probes = Probes(Freshness(redis, "events", 1), edge, lambda: edge.stops, {})
    transport = httpx.ASGITransport(Starlette(routes=[Route("/readyz", probes.readyz)]))
    async with redis, httpx.AsyncClient(transport=transport, base_url="http://edge") as http:
        yield http, redis


def test_a_drain_that_never_ran_degrades_and_takes_no_edge_out(redis_url: str) -> None:
    edge = Edge()
    answer = readyz(edge, redis_url)
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "degraded": ["drain 0"]})
    strict = readyz(edge, redis_url, "strict")
    assert (strict.status_code, strict.json()) == (503, {"ready": False, "degraded": ["drain 0"]})


async def prove(redis: Redis, ago_ms: int) -> None:
    seconds, microseconds = await redis.time()
    partition = Partition(redis, Keys("events", 0), "a", (6, 2))
    await partition.prove_progress(seconds * 1000 + microseconds // 1000 - ago_ms)


def test_what_was_proved_before_an_edge_began_proves_nothing_to_it(redis_url: str) -> None:
    """A machine that went down and came back within 5 seconds: its drain had worked, its store is not there yet."""

    async def run() -> None:
        async with Redis.from_url(redis_url) as former:
            await prove(former, ago_ms=100)
        async with served(Edge(), redis_url) as (http, redis):
            former_proof = await http.get("/readyz?strict&verbose")
            assert former_proof.status_code == 503
            details = {check["name"]: check["detail"] for check in former_proof.json()["checks"]}
            assert details["drain 0"].endswith("ms ago, before this edge began")

            async def is_ready() -> bool:
                await prove(redis, ago_ms=0)
                return (await http.get("/readyz?strict")).status_code == 200

            await async_until(is_ready, 10, "readiness by a proof of its own time")

    asyncio.run(run())


def test_verbose_lists_every_check(redis_url: str) -> None:
    answer = readyz(Edge(), redis_url, "verbose").json()
    names = ["serving", "accepting", "redis", "drain 0", "backlog 0"]
    assert [check["name"] for check in answer["checks"]] == names
    assert {check["name"] for check in answer["checks"] if not check["ok"]} == {"drain 0"}


@pytest.mark.parametrize("query", ["", "strict"])
def test_an_edge_that_refuses_or_stops_is_not_ready(redis_url: str, query: str) -> None:
    refusing, stopping = Edge(), Edge()
    refusing.refuses, stopping.stops = "the disk is full", True
    for edge, name in ((refusing, "accepting"), (stopping, "serving")):
        answer = readyz(edge, redis_url, query)
        assert answer.status_code == 503
        assert name in answer.json()["degraded"]
    checks = readyz(refusing, redis_url, "verbose").json()["checks"]
    assert {"name": "accepting", "ok": False, "detail": "the disk is full"} in checks


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[str]:
    """The url of a Redis that takes connections and never answers."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "silent.sock"))
        listener.listen()
        yield f"unix://{tmp_path}/silent.sock"


def test_a_redis_that_is_away_or_silent_is_named_in_time(tmp_path: Path, silent: str) -> None:
    """While events are kept elsewhere, an edge without Redis stays in."""
    for url in (f"unix://{tmp_path}/none.sock", silent):
        began = time.monotonic()
        answer = readyz(Edge(), url)
        assert time.monotonic() - began < REDIS_SECONDS + 0.9  # a load balancer waits 2 s
        assert (answer.status_code, answer.json()) == (200, {"ready": True, "degraded": ["redis"]})
        assert readyz(Edge(), url, "strict").status_code == 503
