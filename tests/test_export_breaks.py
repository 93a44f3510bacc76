"""An export that breaks off is seen to be broken, one that nobody reads costs nothing, and there are bounds."""

from __future__ import annotations

import asyncio
import collections
import json
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from starlette.types import Message

from app.errors import ApiError, Kind
from app.places import Places
from app.streaming import PIECE_BYTES, stream
from tests import plain_http
from tests.client import Client
from tests.engines import Target
from tests.waiting import until

COUNT = 3200
FILLER = "x" * 8000  # together far more than two pages, and the buffers between edge and client


@pytest.fixture(scope="module")
def large(client: Client) -> Iterator[Client]:
    project = client.new_project()
    key = {"x-eventbunker-write-key": project.keys["write_key"]}
    for start in range(0, COUNT, 400):
        events = [{"event_name": "e", "n": start + n, "filler": FILLER} for n in range(400)]
        assert project.http.post("/batch", json=events, headers=key).json()["accepted"] == 400
    until(lambda: project.count("e") == COUNT, 30, "all events in queries")
    yield project
    project.delete()


@pytest.mark.service
def test_a_revoked_key_ends_it_and_all_can_see_that(
    large: Client, target_client: Client, target: Target
) -> None:
    made, began = large.create_key("QUERY"), len(target.log)
    asked = {"time_period": {"start": "1970-01-01", "end": "2101-01-01"}}
    with httpx.Client(
        verify=plain_http.NOBODY, base_url=target_client.keys["url"], timeout=60, trust_env=False
    ) as http:
        headers = {"x-eventbunker-query-key": made["api_key"]}
        with http.stream("POST", "/v1/export", json=asked, headers=headers) as answer:
            pieces = answer.iter_raw(65_536)
            assert next(pieces)
            large.manage(
                "apikey/delete",
                large.keys["project_master_key"],
                project_id=large.keys["project_id"],
                api_key_id=made["api_key_id"],
            )
            refused = {"x-eventbunker-query-key": made["api_key"]}
            until(
                lambda: http.post("/v1/query/json", json={}, headers=refused).status_code == 401,
                20,
                "the end of the key",
            )
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
                collections.deque(pieces, maxlen=0)
    assert "export_broken_off" in target.log[began:]
    assert '"level":"error"' not in target.log[began:], "nothing of ours is broken"


@pytest.mark.service
def test_exports_have_bounds_and_end_with_their_clients(large: Client) -> None:
    asked = {"time_period": {"start": "1970-01-01", "end": "2101-01-01"}}
    headers = {"x-eventbunker-query-key": large.keys["query_key"]}

    # What Linux keeps for who does not read may grow beyond the whole file.
    little = httpx.HTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)])
    http = httpx.Client(base_url=large.http.base_url, transport=little, timeout=60)

    def begin() -> Any:
        return http.stream("POST", "/v1/export", json=asked, headers=headers)

    with http, begin() as one, begin() as other, begin() as third:
        assert (one.status_code, other.status_code) == (200, 200)
        assert third.status_code == 429
        assert json.loads(third.read())["code"] == "rate_limit_exceeded"
    # Both clients left without reading: their places are free again.
    until(lambda: large.http.post("/v1/export", json={}, headers=headers).status_code == 400, 20, "an answer")

    def is_free() -> bool:
        with large.http.stream("POST", "/v1/export", json=asked, headers=headers) as again:
            return again.status_code == 200

    until(is_free, 20, "a place")


def test_places_are_counted_by_key_by_project_and_in_all() -> None:
    places = Places(4, 2, "exports")

    def refusal(project: str, key: str) -> ApiError | None:
        try:
            with places.take(project, key):
                return None
        except ApiError as error:
            return error

    with ExitStack() as stack:
        stack.enter_context(places.take("A", "a"))
        stack.enter_context(places.take("A", "b"))
        for key, whose in (("c", "project"), ("a", "project")):
            greedy = refusal("A", key)
            assert greedy is not None
            assert greedy.kind is Kind.RATE_LIMITED
            assert f"This {whose} has 2 exports" in greedy.detail
        stack.enter_context(places.take("B", "d"))
        kept = refusal("B", "d")
        assert kept is not None, "the last is for who has none"
        assert kept.kind is Kind.UNAVAILABLE
        stack.enter_context(places.take("C", "e"))
        full = refusal("D", "f")
        assert full is not None
        assert full.kind is Kind.UNAVAILABLE
    assert places.taken == 0
    many = Places(40, 2, "tails")
    with (
        many.take("A", "a"),
        many.take("A", "a"),
        pytest.raises(ApiError, match="This key has 2"),
        many.take("A", "a"),
    ):
        pass


class Client_:
    """An ASGI client: takes what is sent, and leaves when told."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.leaves = asyncio.Event()
        self.takes = asyncio.Event()
        self.takes.set()

    async def receive(self) -> Message:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.takes.wait()
        self.messages.append(message)


def test_what_is_made_is_sent_in_pieces_at_the_clients_pace() -> None:
    made: list[int] = []

    async def pieces() -> AsyncGenerator[bytes, None]:
        for number in range(3):
            made.append(number)
            yield b"x" * (PIECE_BYTES + 1)

    async def run() -> None:
        client = Client_()
        task = asyncio.create_task(stream(client.receive, client.send, {"a": "b"}, pieces()))
        client.takes.clear()
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(made) <= 1
        client.takes.set()
        await task
        assert [len(m["body"]) for m in client.messages[1:]] == [PIECE_BYTES, 1] * 3 + [0]
        assert client.messages[0]["headers"] == [(b"a", b"b")]
        assert client.messages[-1]["more_body"] is False

    asyncio.run(run())


def test_a_client_that_leaves_ends_the_making_and_a_failure_leaves_no_end() -> None:
    ended: list[str] = []

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"x"
                await asyncio.sleep(0)
        finally:
            ended.append("endless")

    async def failing() -> AsyncGenerator[bytes, None]:
        yield b"x"
        raise ApiError(Kind.UNAVAILABLE, "the store is away")

    async def run() -> None:
        client = Client_()
        task = asyncio.create_task(stream(client.receive, client.send, {}, endless()))
        while len(client.messages) < 3:  # noqa: ASYNC110  (the fake tells nobody)
            await asyncio.sleep(0)
        client.leaves.set()
        async with asyncio.timeout(20):
            await task
        assert ended == ["endless"]
        client = Client_()
        with pytest.raises(ApiError):
            await stream(client.receive, client.send, {}, failing())
        assert all(message.get("more_body", True) for message in client.messages)

    asyncio.run(run())
