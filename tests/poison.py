"""Events that the running service's store refuses, put where an edge that let them through would put them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import msgspec
from redis.asyncio import Redis

from app import redis_client
from app.settings import Settings, load
from app.stream import Record
from tests.client import Client
from tests.pipeline_kit import POISON, make_keys, put, record
from tests.service import Service
from tests.waiting import until


def settings_of(service: Service) -> Settings:
    """What a process of the running service is told."""
    store = json.loads((service.state / "store.json").read_text())
    environ = {
        "REDIS_URL": f"unix://{service.redis_socket}",
        "CLICKHOUSE_URL": store["url"],
        "CLICKHOUSE_PASSWORD": store["password"],
    }
    return load(service.directory / "deploy.toml", environ=environ)


def poison(project: Client, body: bytes = POISON, customer: str = "") -> Record:
    """A record of the project that the engine refuses."""
    return msgspec.structs.replace(
        record(body), project_id=project.keys["project_id"], customer_identifier=customer
    )


def append(service: Service, records: Sequence[Record]) -> None:
    """Put them into the service's stream as one entry."""
    settings = settings_of(service)

    async def run() -> None:
        redis: Redis = redis_client.connect(settings)
        try:
            await put(redis, make_keys(settings), records)
        finally:
            await redis.aclose()

    asyncio.run(run())


def set_aside(service: Service, project: Client, records: Sequence[Record]) -> None:
    """Append them, and wait until all of them are dead letters of the project."""
    append(service, records)
    names = {one.unique_req_id.hex() for one in records}

    def are_dead() -> bool:
        key, project_id = project.keys["project_master_key"], project.keys["project_id"]
        listed = project.manage("dead/list", key, project_id=project_id, limit=1000).json()
        return names <= {one["unique_req_id"] for one in listed["dead_letters"]}

    until(are_dead, 20, "the dead letters")
