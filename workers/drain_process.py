"""One drain process: settings -> the partitions of the queue, and what runs beside them. No logic of its own.

Started by `eventbunker drain`, or by the supervisor. Next: `workers.sharing` chooses among the partitions,
`workers.drain` drains each.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import uuid

import structlog
import uvloop

from app import enrich, redis_client
from app import store as store_client
from app.enrich import Geography, GeographyError
from app.layout import Expected, Layout, LayoutError
from app.ledger_reader import LedgerReader
from app.logs import configure_logging
from app.partition import Partition
from app.presence import Presence
from app.redis_client import RETRY_SECONDS, UNREACHABLE
from app.settings import Settings
from app.stream import Keys
from workers import elsewhere
from workers.drain import IDLE_WAIT_MS, PartitionDrain
from workers.erase import ProjectEraser
from workers.erase_letters import Letters
from workers.eraser import Eraser
from workers.marks import Marks
from workers.retention import Retention
from workers.sharing import Sharing, life_seconds
from workers.store_proof import StoreProof
from workers.tidy import Tidy
from workers.tombstones import Tombstones

ERASURE_MARGIN_MS = 5_000  # on top of what an append may take: edges tell of their spools by then
MAX_CONNECTIONS = 1000  # a partition blocks one in its read, and has another for its lease

log = structlog.get_logger()


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Drain this process's share of the partitions until `stop` is set. Errors: LayoutError."""
    producer, consumer, limits = settings.producer, settings.consumer, settings.limits
    timeout_seconds = IDLE_WAIT_MS / 1000 + 5
    redis = redis_client.connect(settings, timeout_seconds=timeout_seconds, max_connections=MAX_CONNECTIONS)
    store = store_client.connect(settings)
    geography = Geography(str(settings.vars.get("GEOIP_DB", "")))
    # Nothing else runs meanwhile, so not with the first batch: its lease and other partitions would wait.
    enrich.prepare()
    # A supervisor restarts its drain in the same slot; anybody else gets a slot of its own.
    slot = os.environ.get("DRAIN_SLOT") or f"{socket.gethostname()}-{uuid.uuid4().hex}"
    try:
        version = await redis_client.wait_for_version(redis, stop)
        presence = Presence(
            redis,
            Expected(producer.queue, producer.shards, dead_letter_queue=consumer.dead_letter_queue),
            "drain",
            id=slot,
            place=socket.gethostname(),
            life_seconds=life_seconds(settings),
            redis_version=version,
        )
        layout = await _join(presence, stop)
        if layout is None:
            return
        keys = [Keys(producer.queue, number, consumer.dead_letter_queue) for number in range(layout.most)]
        proof = StoreProof(store)
        tombstones = Tombstones(redis, geography)
        drains = [
            PartitionDrain(
                Partition(redis, one, slot, version, max_dead_letters=consumer.max_dead_letters),
                *(store, geography, settings, stop),
                tombstones=tombstones,
                proof=proof,
            )
            for one in keys
        ]
        reader = LedgerReader(redis, producer.queue, layout.most, consumer.dead_letter_queue)
        letters, marks = Letters(redis, store, reader, tombstones), Marks(redis, reader)
        eraser = ProjectEraser(redis, store, reader, letters, marks)
        sharing = Sharing(redis, presence, keys, drains, settings)
        days = settings.store.retention_days
        tidy = Tidy(redis, store, reader, Retention(redis, store, reader, days) if days else None)
        append_ms = int(limits.append_timeout * 1000)
        erasures = Eraser(
            *(redis, store, reader, tombstones),
            queue=producer.queue,
            owner=slot,
            margin_ms=append_ms + ERASURE_MARGIN_MS,
        )
        await asyncio.gather(
            *(eraser.run(stop), erasures.run(stop), tidy.run(stop), sharing.run(stop)),
            elsewhere.warn(redis, settings, stop),
        )
    finally:
        await store.close()
        await redis.aclose()
    log.info("drain stopped")


async def _join(presence: Presence, stop: asyncio.Event) -> Layout | None:
    """Register among the drains, and hear the layout; None when asked to stop first. Errors: LayoutError."""
    while not stop.is_set():
        try:
            if view := await presence.beat():
                return view.layout
        except UNREACHABLE as error:
            log.warning("waiting for redis", error=type(error).__name__)
        await asyncio.sleep(RETRY_SECONDS)
    return None


def main(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit code."""
    configure_logging("drain")
    for name, value in (("REDIS_URL", settings.redis_url), ("CLICKHOUSE_URL", settings.clickhouse_url)):
        if not value:
            log.error(f"{name} is not set: `eventbunker drain` starts no Redis and no store; `dev` does")
            return 2

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await serve(settings, stop)

    try:
        uvloop.run(run())
    except (GeographyError, LayoutError) as error:
        log.error(str(error))
        return 2
    return 0
