"""What arrives late or breaks in a rare place: writes of a connection that was given up, resets, lost tokens."""

from __future__ import annotations

import asyncio
import copy
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop
from redis.exceptions import ConnectionError

from app import redis_client
from app.partition import LeaseLost
from app.producer import Producer
from tests.append_edge import own_redis, spooling_edge
from tests.pipeline_kit import LEASE_MS, ledger, make_settings, record
from tests.pipeline_steps import Open, opened, start
from tests.redis_fixture import RedisServer
from tests.waiting import async_until

__all__ = ["opened", "own_redis"]


def test_what_an_owner_sent_before_it_asked_again_is_fenced(opened: Open) -> None:
    """Safeguard: ACQUIRE raises the epoch for the owner too. Its writes may come late from a lost connection.

    A late plan would name entries that are gone, and a late acknowledgement would count them twice.
    """

    async def run() -> None:
        async with opened() as made:
            partition = made.partition()
            assert await partition.acquire(LEASE_MS)
            entry = await made.put([record()])
            lost = copy.copy(partition)
            assert await partition.acquire(LEASE_MS)
            await partition.save_plan(b"plan")
            for _ in range(2):
                with pytest.raises(LeaseLost):
                    await lost.save_plan(b"late")
                with pytest.raises(LeaseLost):
                    await lost.acknowledge(entry, {"prj|1|stored": 1}, [])
                await partition.renew(LEASE_MS)
            assert await partition.load_plan() == b"plan"
            assert (await ledger(made.redis, made.keys)).get("stored", 0) == 0

    asyncio.run(run())


def test_a_dead_letter_that_was_put_back_has_a_token_of_its_own(opened: Open) -> None:
    """Safeguard: its former token may be in the engine's log without its row, and an OK to it means nothing."""

    async def run() -> None:
        async with opened() as made:
            work = await start(made, [one := record()])
            await work.inserter._send(work.plan, work.plan.parts[0], work.items)
            await made.store.command("ALTER TABLE events DELETE WHERE 1 SETTINGS mutations_sync = 2")
            partition = made.partition()
            assert await partition.acquire(LEASE_MS)
            await partition.acknowledge(work.plan.last, {}, [(one.unique_req_id.hex(), b"letter")])
            await made.put([one])  # as REPLAY does
            again = await start(made, [])
            await again.carry_out()
            assert again.plan.stored == 1
            assert await made.store.stored() == (1, 1)

    asyncio.run(run())


@pytest.fixture
def resetting() -> Iterator[tuple[str, threading.Event]]:
    """A server that says OK to everything, and resets its connections when told to: its url, the wish."""
    server = socket.create_server(("127.0.0.1", 0))
    wish = threading.Event()

    def serve() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.settimeout(0.02)
            while not wish.is_set():
                try:
                    peer.sendall(b"+OK\r\n" * peer.recv(65536).count(b"*"))
                except TimeoutError:
                    continue
            peer.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"redis://127.0.0.1:{server.getsockname()[1]}", wish
    wish.set()
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


def test_a_reset_is_redis_being_away(tmp_path: Path, resetting: tuple[str, threading.Event]) -> None:
    """Safeguard: uvloop's RuntimeError must look like an outage, or it ends a drain and answers 500."""

    async def run() -> None:
        url, wish = resetting
        redis = redis_client.connect(make_settings(tmp_path, url))
        connection = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        await connection.connect()
        wish.set()
        await asyncio.sleep(0.2)
        with pytest.raises(ConnectionError):
            await connection.send_command("PING")
        await redis.aclose()

    uvloop.run(run())


def test_a_cancellation_that_comes_as_a_command_is_sent_is_not_lost(
    tmp_path: Path, resetting: tuple[str, threading.Event]
) -> None:
    """Safeguard: a deadline that fires in this moment would be forgotten, and the caller wait for seconds."""

    async def run() -> None:
        redis = redis_client.connect(make_settings(tmp_path, resetting[0]))
        connection = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        await connection.connect()

        async def send_and_wait() -> None:
            await connection.send_command("PING")
            await asyncio.sleep(60)

        async def send(_: object) -> None:  # ends in the step in which the caller is cancelled
            asyncio.get_running_loop().call_soon(task.cancel)

        connection._send_packed_command = send
        task = asyncio.create_task(send_and_wait())
        await asyncio.wait([task], timeout=5)
        assert task.cancelled()
        await redis.aclose()

    asyncio.run(run())


def test_an_append_that_fails_as_nobody_expects_gives_its_room_back(
    tmp_path: Path, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safeguard: room that stays promised is lost until the process ends."""

    async def fail(*_: object, **__: object) -> str:
        raise ValueError("a bug")

    async def run() -> None:
        async with spooling_edge(make_settings(tmp_path, own_redis.url)) as made:
            monkeypatch.setattr(Producer, "append", fail)
            with pytest.raises(ValueError, match="a bug"):
                await made.append(1)
            assert made.spool._promised == 0
            monkeypatch.undo()
            await made.append(2)
            await async_until(made.is_replayed, 5)  # a slow machine may have spooled it
            assert await made.numbers() == [2]

    asyncio.run(run())
