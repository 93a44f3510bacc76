"""A drain that was away: how fast it empties a long stream, and how much memory that takes.

    python -m bench.catch_up            2,000,000 events in 2,000 groups
    python -m bench.catch_up 200000     fewer

Redis, the embedded store and one real `eventbunker drain` in a temporary directory. The stream is filled by
the edges' own script before the drain starts. CPU seconds are given too, since the machine may be shared.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from app import ledger, redis_client
from app import store as store_client
from app.stream import Record, encode_record, join_group
from app.stream_scripts import APPEND
from tests.pipeline_kit import make_keys, make_settings
from tests.redis_fixture import start_redis
from tests.store_fixture import ROOT, StoreServer, start_store
from tests.waiting import async_until
from workers.migrate import migrate

EVENTS = 2_000_000
GROUP = 1_000
MAX_SECONDS = 900
BODY = (
    b'{"event_name":"page_view","customer_identifier":"customer-%d","page_url":"https://shop.example/p/%d",'
    b'"price":%d.5,"currency":"EUR","is_member":true,"tags":["a","b"],"cart":{"items":%d,"coupon":"SPRING"}}'
)
AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"


def group(number: int) -> tuple[bytes, str]:
    """One payload of GROUP events, and its counts for the ledger."""
    now = time.time_ns() // 1_000_000
    records = [
        Record(
            os.urandom(12),
            1,
            now,
            "prj_bench",
            "",
            "",
            AGENT,
            "",
            BODY % (one % 5000, one % 300, one % 90, one % 7),
        )
        for one in range(number * GROUP, (number + 1) * GROUP)
    ]
    return join_group([encode_record(one) for one in records]), ledger.encode_counts(ledger.count(records))


def memory_mb(pid: int, field: str) -> float:
    """VmRSS (now) or VmHWM (the most there was)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) / 1024


def cpu_seconds(pid: int) -> float:
    """Used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start_drain(directory: Path, redis_url: str, store: StoreServer) -> subprocess.Popen[bytes]:
    """A real one, with an empty deploy.toml."""
    (directory / "deploy.toml").write_text("")
    environ = {
        **os.environ,
        "REDIS_URL": redis_url,
        "CLICKHOUSE_URL": store.url,
        "CLICKHOUSE_PASSWORD": store.token,
        "DEPLOY_CONFIG": str(directory / "deploy.toml"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-P", "-m", "workers.process", "drain"]
    with (directory / "drain.log").open("wb") as log:
        return subprocess.Popen(command, cwd=directory, env=environ, stdout=log, stderr=log)


async def measure(directory: Path, events: int) -> list[tuple[str, str]]:
    server = start_redis(directory, "appendfsync everysec\n")  # filling is not what is measured
    store_server = start_store(directory / "data")
    database = "eventbunker"
    settings = make_settings(directory, server.url, store_server, database)
    redis, store, keys = redis_client.connect(settings), store_client.connect(settings), make_keys(settings)
    drain: subprocess.Popen[bytes] | None = None
    try:
        store_server.text(f"CREATE DATABASE IF NOT EXISTS {database}")
        await migrate(store, database)
        names = (keys.entries, keys.producers, keys.producers_order, keys.ledger, keys.hours)
        for number in range(events // GROUP):
            payload, counts = group(number)
            await redis.eval(APPEND, 5, *names, "bench", str(number + 1), str(GROUP), counts, payload)
        memory = (await redis.info("memory"))["used_memory"] / 2**20
        await redis.config_set("appendfsync", "always")
        drain = start_drain(directory, server.url, store_server)
        await async_until(lambda: redis.exists(keys.lease), 60, "the lease")
        idle, began = memory_mb(drain.pid, "VmRSS"), time.monotonic()
        store_cpu = cpu_seconds(store_server.pid)

        async def is_empty() -> bool:
            return not await redis.xlen(keys.entries)

        await async_until(is_empty, MAX_SECONDS, "an empty stream")
        seconds = time.monotonic() - began
        rows = (await store.ask("SELECT count(), uniqExact(unique_req_id) FROM events")).rows[0]
        return [
            (f"{events:,} queued events of {len(BODY)} bytes, in Redis", f"{memory:.0f} MB"),
            ("… stored by one drain in", f"{seconds:.0f} s"),
            ("… rate", f"{events / seconds:,.0f} a second"),
            ("… rows in the store / distinct", f"{rows[0]:,} / {rows[1]:,}"),
            ("… CPU seconds of the drain / of the store", f"{cpu_seconds(drain.pid):.0f} / "
             f"{cpu_seconds(store_server.pid) - store_cpu:.0f}"),
            ("… memory of the drain, at its start", f"{idle:.0f} MB"),
            ("… memory of the drain, at most", f"{memory_mb(drain.pid, 'VmHWM'):.0f} MB"),
        ]  # fmt: skip
    finally:
        if drain is not None:
            drain.send_signal(signal.SIGTERM)
            drain.wait(30)
        await store.close()
        await redis.aclose()
        store_server.stop()
        server.kill()


def main() -> None:
    """Print the figures as rows of a table."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    with tempfile.TemporaryDirectory() as directory:
        for name, value in asyncio.run(measure(Path(directory), events)):
            print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
