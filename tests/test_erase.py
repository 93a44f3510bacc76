"""A deleted project's events leave the store and the dead letters; nobody else's do."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import cast

import pytest
from redis.asyncio import Redis

from app import dead_letter as dead_letters
from app import redis_client, registry_scripts
from app import store as store_client
from app.dead_letter import DeadLetter
from app.ledger_reader import LedgerReader
from app.settings import Settings, load
from app.stream import Keys, Record
from tests.client import Client, equals
from tests.pipeline_kit import make_project_eraser
from tests.service import Service
from tests.waiting import async_until, until

pytestmark = pytest.mark.service


def settings_of(service: Service) -> Settings:
    """What a process of the running service is told."""
    store = json.loads((service.state / "store.json").read_text())
    return load(
        service.directory / "deploy.toml",
        environ={
            "REDIS_URL": f"unix://{service.redis_socket}",
            "CLICKHOUSE_URL": store["url"],
            "CLICKHOUSE_PASSWORD": store["password"],
        },
    )


def dead_letter(project_id: str) -> bytes:
    record = Record(bytes(12), 1, 0, project_id, "", "", "", "", b"{}")
    return dead_letters.encode(DeadLetter("a reason", 0, "1-0", record))


def erase(settings: Settings, project_ids: list[str]) -> tuple[list[str], list[str], list[list[object]]]:
    """(what was erased, whose dead letters are left, rows left by project)"""

    async def run() -> tuple[list[str], list[str], list[list[object]]]:
        redis = redis_client.connect(settings)
        store = store_client.connect(settings)
        keys = Keys(settings.producer.queue, 0, "erase-test")
        try:
            await redis.delete(keys.dead)
            for project_id in project_ids * 3:
                await redis.xadd(keys.dead, {"d": dead_letter(project_id)})
            for project_id in project_ids:
                await count_dead(redis, keys, project_id, 3)
            reader = LedgerReader(redis, settings.producer.queue, 1, "erase-test")
            eraser = make_project_eraser(redis, store, reader)

            erased: list[str] = []

            async def is_erased() -> bool:
                """Not at once where a canary waits in the stream just now."""
                erased.extend(await eraser.erase_due())
                return project_ids[0] in erased

            await async_until(is_erased, 20, "the erasure")
            again = await eraser.erase_due()
            assert not again
            left = cast("list[tuple[bytes, dict[bytes, bytes]]]", await redis.xrange(keys.dead))
            owners = [owner(fields[b"d"]) for _, fields in left]
            for project_id in owners:
                await count_dead(redis, keys, project_id, -1)
            rows = await store.ask(
                "SELECT project_id, count() FROM events WHERE has({ids:Array(String)}, project_id)"
                " GROUP BY project_id",
                {"ids": project_ids},
            )
            marked = cast("set[bytes]", await redis.smembers(registry_scripts.DELETED))
            assert not set(erased) & {one.decode() for one in marked}
            return erased, owners, rows.rows
        finally:
            await store.close()
            await redis.aclose()

    return asyncio.run(run())


async def count_dead(redis: Redis, keys: Keys, project_id: str, number: int) -> None:
    """As if dead letters had come the usual way: afterwards the ledger must still be right."""
    for fate in ("appended", "dead"):
        await redis.hincrby(keys.ledger, fate, number)
        await redis.hincrby(keys.hours, f"{project_id}|0|{fate}", number)


def fates_of(settings: Settings, project_id: str) -> dict[str, int]:
    """The ledger of one project, all hours together."""

    async def run() -> dict[str, int]:
        redis = redis_client.connect(settings)
        try:
            [snapshot] = await LedgerReader(redis, settings.producer.queue, 1, "events-dead").read()
        finally:
            await redis.aclose()
        sums: Counter[str] = Counter()
        for where, fates in snapshot.buckets.items():
            if where.startswith(f"{project_id}|"):
                sums.update(fates)
        return {fate: number for fate, number in sums.items() if number}

    return asyncio.run(run())


def owner(payload: bytes) -> str:
    record = dead_letters.decode(payload).record
    assert record is not None
    return record.project_id


def test_only_the_deleted_project_is_erased(service: Service, client: Client) -> None:
    gone, stays = client.new_project(), client.new_project()
    for project in (gone, stays):
        for _ in range(20):
            project.track(event_name="erased")
    until(lambda: gone.count("erased") == stays.count("erased") == 20, 20, "all events in a query")
    answer = client.manage(
        "project/delete",
        client.keys["account_master_key"],
        account_id=client.keys["account_id"],
        project_id=gone.keys["project_id"],
    )
    assert answer.json()["status"] == "DELETED"
    ids = [gone.keys["project_id"], stays.keys["project_id"]]
    settings = settings_of(service)

    how_far = {"account_id": client.keys["account_id"], "project_id": ids[0]}
    told = client.manage("project/erasure", client.keys["account_master_key"], **how_far).json()
    assert (told["erasure_id"], told["state"], told["rows_gone_at"]) == (
        answer.json()["erasure_id"], "pending", None,
    )  # fmt: skip

    erased, owners, rows = erase(settings, ids)
    assert ids[0] in erased
    assert set(owners) == {ids[1]}
    assert rows == [[ids[1], 20]]
    assert fates_of(settings, ids[0]) == {"appended": 23, "erased": 23}
    assert fates_of(settings, ids[1]) == {"appended": 20, "stored": 20}
    assert len(stays.events(equals("event_name", "erased"))) == 20
    told = client.manage("project/erasure", client.keys["account_master_key"], **how_far).json()
    assert told["counted"]["store"] == 20
    assert told["remaining"]["store"] == 0
    other = client.manage(
        "project/erasure", client.keys["account_master_key"], **how_far | {"project_id": ids[1]}
    )
    assert other.json()["error"] == "Invalid project_id"
