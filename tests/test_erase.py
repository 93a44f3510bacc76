"""A deleted project's events leave the store and the dead letters; nobody else's do."""

from __future__ import annotations

import asyncio
import json
import time
from typing import cast

import pytest

from app import dead_letter as dead_letters
from app import redis_client, registry_scripts
from app import store as store_client
from app.dead_letter import DeadLetter
from app.partition import Freshness
from app.settings import Settings, load
from app.stream import Keys, Record
from tests.client import Client, equals
from tests.service import Service
from tests.waiting import until
from workers.erase import ProjectEraser

pytestmark = pytest.mark.service


def settings_of(service: Service) -> Settings:
    """What a process of the running service is told."""
    store = json.loads((service.state / "store.json").read_text())
    return load(
        service.directory / "deploy.toml",
        environ={
            "REDIS_URL": f"unix://{service.state}/redis/redis.sock",
            "CLICKHOUSE_URL": store["url"],
            "CLICKHOUSE_PASSWORD": store["password"],
        },
    )


def dead_letter(project_id: str) -> bytes:
    record = Record(bytes(12), 1, 0, project_id, "", "", "", "", b"{}")
    return dead_letters.encode(DeadLetter("a reason", 0, "1-0", record))


def erase(
    settings: Settings, project_ids: list[str], margin_ms: int
) -> tuple[list[str], list[str], list[list[object]]]:
    """(what was erased, whose dead letters are left, rows left by project)"""

    async def run() -> tuple[list[str], list[str], list[list[object]]]:
        redis = redis_client.connect(settings)
        store = store_client.connect(settings)
        keys = Keys("erase-test", 0)
        try:
            await redis.delete(keys.dead, keys.ledger, keys.hours)
            for project_id in project_ids * 3:
                await redis.xadd(keys.dead, {"d": dead_letter(project_id)})
                await redis.hincrby(keys.ledger, "dead", 1)
                await redis.hincrby(keys.hours, f"{project_id}|0|dead", 1)
            freshness = Freshness(redis, settings.producer.queue, 1)
            eraser = ProjectEraser(redis, store, [keys], freshness, margin_ms=margin_ms)
            erased = await eraser.erase_due()
            again = await eraser.erase_due()
            assert not again
            left = cast("list[tuple[bytes, dict[bytes, bytes]]]", await redis.xrange(keys.dead))
            owners = [owner(fields[b"d"]) for _, fields in left]
            for project_id in project_ids:
                counted = await redis.hmget(
                    keys.hours, [f"{project_id}|0|{fate}" for fate in ("dead", "erased")]
                )
                own = owners.count(project_id)
                assert [int(one or 0) for one in counted] == [own, 3 - own], "the ledger follows"
            assert int(await redis.hget(keys.ledger, "dead") or 0) == len(owners)
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

    erased, owners, rows = erase(settings, ids, margin_ms=3_600_000)
    assert ids[0] not in erased, "an edge may still hold the key: too early"
    assert sorted(map(str, rows)) == sorted(str([one, 20]) for one in ids)

    deleted_at = time.time()
    until(lambda: time.time() > deleted_at + 0.1, 5)  # fresh_as_of passes the deletion
    erased, owners, rows = erase(settings, ids, margin_ms=0)
    assert ids[0] in erased
    assert set(owners) == {ids[1]}
    assert rows == [[ids[1], 20]]
    assert len(stays.events(equals("event_name", "erased"))) == 20
