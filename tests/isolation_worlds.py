"""Services that hold the events of several owners, and the same service with one viewer's events alone.

An owner is a customer (or nobody) of a project. Every owner has the same events, but for a marker of its own
that stands wherever a client can put text: fields, names of fields, event names, ids, addresses, agents. The
same customer lives in both projects. A viewer is a key, and what it may see.

A world is a Redis, a database of the real store and the real app, without a server before it. Drains of ours
store what its owners sent; one event of each project is a dead letter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
import redis
from starlette.applications import Starlette

from app import redis_client
from app.accounts import Accounts
from app.gate import Gate
from app.grant import KeyType
from app.main import create_app
from app.settings import Settings
from app.stream import Record
from app.timestamp import format_timestamp
from tests.pipeline_kit import Bench, bench, make_settings
from tests.redis_fixture import RedisServer, start_redis
from tests.store_fixture import StoreServer
from tests.waiting import async_until

T = TypeVar("T")
WAIT_SECONDS = 60.0
OPEN_SECONDS = 300.0  # to make all of them, on a busy machine
FIRST_MS = 1_750_000_000_000  # June 2025
HOUR_MS = 3_600_000
SHARED = "shared customer"


class Owner(msgspec.Struct, frozen=True):
    """`customer` is "" for events of nobody."""

    project: str
    customer: str
    marker: str


OWNERS = (
    Owner("A", "", "markerAnobody"),
    Owner("A", SHARED, "markerAshared"),
    Owner("A", "customer of markerAown", "markerAown"),
    Owner("B", "", "markerBnobody"),
    Owner("B", SHARED, "markerBshared"),
    Owner("B", "customer of markerBown", "markerBown"),
)
MARKERS = tuple(owner.marker for owner in OWNERS)


class Viewer(msgspec.Struct, frozen=True):
    """Who asks: a project's keys, or those that are bound to one of its customers."""

    name: str
    project: str
    customer: str = ""

    @property
    def owners(self) -> tuple[Owner, ...]:
        """Whose events it may see."""
        return tuple(
            owner
            for owner in OWNERS
            if owner.project == self.project and self.customer in ("", owner.customer)
        )


VIEWERS = (
    Viewer("A", "A"),
    Viewer("B", "B"),
    Viewer("shared customer of A", "A", SHARED),
    Viewer("own customer of A", "A", "customer of markerAown"),
)


class Keys(msgspec.Struct):
    """Secrets of one viewer; `master` where it has a whole project."""

    project_id: str
    query: str
    write: str
    master: str = ""


def events(owner: Owner, project_id: str) -> list[Record]:
    """Stored events of `owner`: the same for every owner, but for the marker."""
    mark, found = owner.marker, []
    customer = {"customer_identifier": owner.customer} if owner.customer else {}
    for number in range(4):
        own = {} if number % 2 else {f"f_{mark}": number, "deep": {"secret": mark, f"d_{mark}": True}}
        body = {
            "event_name": ("view", "buy", mark, "view")[number],
            "timestamp": format_timestamp(FIRST_MS + number * HOUR_MS),
            **customer,
            "secret": mark,
            "n": number * 10 + 1,
            "list": [mark, "x"],
            "event_id": f"id-{mark}-{number}",
            "page_url": f"https://{mark}.example/{mark}?utm_source={mark}",
            "metric_name": mark,
            "metric_value": number,
            **own,
        }
        found.append(
            Record(
                _request_id(owner, number),
                1,
                FIRST_MS + number * HOUR_MS,
                project_id,
                "",
                "",
                f"Agent {mark}",
                f"https://{mark}.example/from",
                json.dumps(body).encode(),
            )
        )
    return found


def poison(owner: Owner, project_id: str) -> list[Record]:
    """An event of nobody that becomes a dead letter, since a field stands twice: the drain looks long for each."""
    if owner.customer:
        return []
    body = f'{{"event_name":"view","secret":"{owner.marker}","secret":"{owner.marker}"}}'
    return [Record(_request_id(owner, 50), 1, FIRST_MS, project_id, "", "", "", "", body.encode())]


def queued(owner: Owner, project_id: str, event_name: str = "view") -> Record:
    """An event that nobody drains."""
    body = {"event_name": event_name, "secret": owner.marker}
    if owner.customer:
        body["customer_identifier"] = owner.customer
    return Record(
        *(_request_id(owner, 60), 1, FIRST_MS, project_id, "", "", "", ""), json.dumps(body).encode()
    )


def ids(owner: Owner) -> list[str]:
    """`unique_req_id` of each of its events."""
    return [_request_id(owner, number).hex() + "00000001" for number in (*range(4), 50, 60)]


def _request_id(owner: Owner, number: int) -> bytes:
    return (FIRST_MS << 48 | OWNERS.index(owner) << 8 | number).to_bytes(12, "big")


class World:
    """One service. `ask` sends a request to its app."""

    def __init__(self, app: Gate, http: httpx.AsyncClient, parts: Bench) -> None:
        self.app = app
        self.parts = parts
        self._http = http

    async def tail(self, query: str, key: str, records: Sequence[Record], last: bytes) -> bytes:
        """What GET /v1/tail shows of `records`, up to what holds `last`. Errors: AssertionError."""
        shown, leaves, asked = bytearray(), asyncio.Event(), False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if asked:
                await leaves.wait()
                return {"type": "http.disconnect"}
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            shown.extend(message.get("body", b""))

        async def has_begun() -> bool:
            return bool(shown)

        async def has_shown_the_last() -> bool:
            return last in shown

        headers = [(b"x-eventbunker-query-key", key.encode())]
        scope = {"type": "http", "method": "GET", "path": "/v1/tail", "query_string": query.encode()}
        scope |= {"headers": headers, "http_version": "1.1", "scheme": "http", "server": ("edge", 80)}
        tailing = asyncio.create_task(self.app(scope, receive, send))
        try:
            await async_until(has_begun, WAIT_SECONDS, "the first message of the tail")
            await self.parts.put(records)
            await async_until(has_shown_the_last, WAIT_SECONDS, f"{last!r} in the tail")
        finally:
            leaves.set()
            await asyncio.wait({tailing}, timeout=WAIT_SECONDS)
        return bytes(shown)

    async def ask(self, method: str, path: str, headers: Mapping[str, str], content: bytes) -> httpx.Response:
        return await self._http.request(method, path, headers=dict(headers), content=content)


class Worlds:
    """`whole` holds every owner's events, `alone[viewer.name]` only those that this viewer may see."""

    def __init__(self) -> None:
        self.whole: World
        self.alone: dict[str, World] = {}
        self.keys: dict[str, Keys] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], seconds: float = WAIT_SECONDS) -> T:
        """Run `work` in the loop of the worlds; its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_SECONDS)
        self._loop.close()

    @contextlib.asynccontextmanager
    async def open(self, directory: Path, store: StoreServer) -> AsyncIterator[None]:
        """Make them all."""
        async with contextlib.AsyncExitStack() as stack:
            servers = {name: await _redis(stack, directory / str(i)) for i, name in enumerate(_names())}
            first = next(iter(servers.values()))
            self.keys = await _make_keys(make_settings(directory, first.url))
            for server in [*servers.values()][1:]:
                _copy(first, server)
            for number, (name, server) in enumerate(servers.items()):
                place = directory / str(number)
                settings = make_settings(place, server.url, store, f"worlds_{directory.name}_{number}")
                quiet = msgspec.structs.replace(settings.observability, canary_interval=0)
                settings = msgspec.structs.replace(settings, spool_path=place / "spool", observability=quiet)
                owners = OWNERS if name == WHOLE else next(v for v in VIEWERS if v.name == name).owners
                world = await stack.enter_async_context(_world(settings, owners, self.keys))
                if name == WHOLE:
                    self.whole = world
                else:
                    self.alone[name] = world
            yield


WHOLE = "whole"


def _names() -> list[str]:
    return [WHOLE, *(viewer.name for viewer in VIEWERS)]


async def _redis(stack: contextlib.AsyncExitStack, directory: Path) -> RedisServer:
    await asyncio.to_thread(directory.mkdir)
    server = await asyncio.to_thread(start_redis, directory)
    stack.callback(server.stop)
    return server


async def _make_keys(settings: Settings) -> dict[str, Keys]:
    client = redis_client.connect(settings)
    accounts = Accounts(client)
    account = await accounts.create_account("test")
    projects = {name: await accounts.create_project(account.account_id, name) for name in ("A", "B")}
    found = {}
    for viewer in VIEWERS:
        project, bound = projects[viewer.project], viewer.customer or None
        made = [
            (await accounts.create_key(project.project_id, kind, customer_identifier=bound)).api_key
            for kind in (KeyType.QUERY, KeyType.WRITE)
        ]
        master = "" if viewer.customer else project.master_api_key
        found[viewer.name] = Keys(project.project_id, made[0], made[1], master)
    await client.aclose()
    return found


def _copy(source: RedisServer, target: RedisServer) -> None:
    with source.client() as read, target.client() as write:
        for name in read.keys():  # noqa: SIM118  (not a dict)
            content = read.dump(name)
            assert isinstance(content, bytes)
            with contextlib.suppress(redis.ResponseError):
                write.restore(name, 0, content)


@contextlib.asynccontextmanager
async def _world(
    settings: Settings, owners: Sequence[Owner], keys: Mapping[str, Keys]
) -> AsyncIterator[World]:
    app = create_app(settings)
    assert isinstance(app, Gate)
    assert isinstance(app._inner, Starlette)
    async with (
        bench(settings) as parts,
        app._inner.router.lifespan_context(app._inner),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://edge", timeout=60) as http,
    ):
        for owner in owners:
            project_id = keys[owner.project].project_id
            await parts.put([*events(owner, project_id), *poison(owner, project_id)])
        async with parts.draining():
            await async_until(parts.is_empty, WAIT_SECONDS, "an empty stream")
        for owner in owners:
            # As a client sends it, so that its names are known; but stored it would be of this very moment.
            body = {"event_name": f"posted_{owner.marker}", "secret": owner.marker, f"p_{owner.marker}": 1}
            customer = {"customer_identifier": owner.customer} if owner.customer else {}
            answer = await http.post(
                "/post",
                content=json.dumps(body | customer),
                headers={"x-eventbunker-write-key": keys[owner.project].write},
            )
            assert answer.status_code == 200, answer.text
        await parts.redis.xtrim(parts.keys.entries, 0)
        yield World(app, http, parts)


@contextlib.contextmanager
def worlds(directory: Path, store: StoreServer) -> Iterator[Worlds]:
    """All of them, running."""
    made = Worlds()
    opened = made.open(directory, store)
    try:
        made.run(opened.__aenter__(), OPEN_SECONDS)
        try:
            yield made
        finally:
            made.run(opened.__aexit__(None, None, None))
    finally:
        made.close()
