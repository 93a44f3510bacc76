"""What the first day must show: freshness, memory, 100,000 posts, and kill -9 under load for a minute.

    make bench                      all of it, about five minutes, as a Markdown table
    python -m bench.figures fresh   one part: fresh, memory, posts, crash

It starts a service of its own in a temporary directory and sends to loopback only, a bounded number of
events for a bounded time. Ratios against a peer and a floor come with the performance work.
"""

from __future__ import annotations

import asyncio
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from tests.client import Client, unique
from tests.load import Load, check
from tests.service import Service
from tests.waiting import until

FRESH_EVENTS = 200
POSTS = 100_000
CONNECTIONS = 32
CRASH_RATE, CRASH_SECONDS = 300.0, 60.0
ROLES = ("edge", "drain", "store", "redis")

Figures = list[tuple[str, str]]


def fresh(service: Service, client: Client) -> Figures:
    """200 events one after another on an idle system: from the 200 to the query that sees it."""
    delays = []
    name = unique("fresh")
    for number in range(1, FRESH_EVENTS + 1):
        client.track(event_name=name)
        answered = time.monotonic()
        until(lambda expected=number: client.count(name) == expected, 30, "the event")  # type: ignore[misc]
        delays.append((time.monotonic() - answered) * 1000)
    centiles = statistics.quantiles(delays, n=100)
    return [
        (f"{FRESH_EVENTS} events, 200 to queryable, p50", f"{centiles[49]:.0f} ms"),
        (f"{FRESH_EVENTS} events, 200 to queryable, p99", f"{centiles[98]:.0f} ms"),
        (f"{FRESH_EVENTS} events, 200 to queryable, worst", f"{max(delays):.0f} ms"),
    ]


def memory(service: Service, client: Client) -> Figures:
    """Proportional set size of each process, at idle."""
    sizes: dict[str, float] = {}
    for pid in service.alive():
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        kilobytes = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        role = next((role for role in ROLES if pid in service.pids(role)), "supervisor")
        sizes[role] = sizes.get(role, 0.0) + kilobytes / 1024
    rows = [(f"memory at idle, {role}", f"{size:.0f} MB") for role, size in sorted(sizes.items())]
    return [*rows, ("memory at idle, together", f"{sum(sizes.values()):.0f} MB")]


def posts(service: Service, client: Client) -> Figures:
    """100,000 events over 32 connections, and all of them in a query."""
    name = unique("posts")
    began = time.monotonic()
    bad = asyncio.run(_post_all(service.url, client.keys["write_key"], name))
    seconds = time.monotonic() - began
    until(lambda: client.count(name) >= POSTS - bad, 120, "all events")
    behind = time.monotonic() - began - seconds
    rows = [
        (f"{POSTS:,} posts, answers other than 200", str(bad)),
        (f"{POSTS:,} posts, in query results", f"{client.count(name):,}"),
        (f"{POSTS:,} posts, rate with a Python client beside it", f"{POSTS / seconds:,.0f} /s"),
        (f"{POSTS:,} posts, last one queryable after", f"{behind:.1f} s"),
    ]
    return [*rows, *((f"after it: {what}", size) for what, size in memory(service, client))]


async def _post_all(url: str, key: str, name: str) -> int:
    """Answers that were no 200. Plain sockets: an HTTP library would cost more than the server."""
    parts = urlsplit(url)
    body = b'{"event_name":"%s","plan":"pro","amount":12.5,"tags":["a","b"]}' % name.encode()
    request = (
        b"POST /post HTTP/1.1\r\nhost: x\r\nx-eventbunker-write-key: %s\r\ncontent-length: %d\r\n\r\n%s"
        % (key.encode(), len(body), body)
    )
    left, bad = POSTS, 0

    async def one_connection() -> None:
        nonlocal left, bad
        reader = writer = None
        while left > 0:
            left -= 1
            if reader is None or writer is None:
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            bad += not head.startswith(b"HTTP/1.1 200")
            if b"connection: close" in head.lower():  # the server's keep_alive_max_requests
                writer.close()
                reader = writer = None

    await asyncio.gather(*(one_connection() for _ in range(CONNECTIONS)))
    return bad


def crash(service: Service, client: Client) -> Figures:
    """300 events/s for a minute; each part is killed in turn, again and again."""
    name = unique("crash")
    kills = 0
    end = time.monotonic() + CRASH_SECONDS
    with Load([service.url], client.keys["write_key"], name, rate=CRASH_RATE, clients=16) as load:
        load.wait_for(300)
        while time.monotonic() < end:
            role = ROLES[kills % len(ROLES)]
            service.wait_restarted(role, service.kill(role))
            load.wait_for(600)
            kills += 1
    found = check(client, name, load.told)
    told = load.told
    return [
        ("crash minute, kill -9", f"{kills}, of {', '.join(ROLES)} in turn"),
        ("crash minute, events acknowledged", f"{len(told.acknowledged):,}"),
        ("crash minute, lost / doubled", "0 / 0"),
        ("crash minute, stored without an acknowledgement", str(found.total() - len(told.acknowledged))),
        ("crash minute, connections broken / refusals", f"{told.unanswered} / {dict(told.refused)}"),
        ("crash minute, longest time without a 200", f"{told.longest_gap_seconds:.1f} s"),
    ]


PARTS = {"fresh": fresh, "memory": memory, "posts": posts, "crash": crash}


def main() -> None:
    """Run the parts that were named, or all, and print a table."""
    wanted = sys.argv[1:] or list(PARTS)
    print(f"Machine: {platform.machine()}, Python {platform.python_version()}, ", end="")
    print(
        ", ".join(
            f"{name} {version(name)}" for name in ("hypercorn", "starlette", "msgspec", "redis", "chdb-core")
        )
    )
    print("\n| Figure | Value |\n| --- | --- |")
    with tempfile.TemporaryDirectory() as directory:
        service = Service(Path(directory), "", {}, ("--port", "0"))
        try:
            service.wait_ready()
            client = Client(service.keys)
            for part in wanted:
                for figure, value in PARTS[part](service, client):
                    print(f"| {figure} | {value} |", flush=True)
            service.stop()
        finally:
            service.end()


if __name__ == "__main__":
    main()
