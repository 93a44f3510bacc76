"""What happens to events while Redis is away: nothing is refused, nothing is lost; then a spool that fills.

    python -m bench.outage                    ten minutes at 500 events/s, about 15 minutes in all
    python -m bench.outage --seconds 60       a shorter outage

It starts a service and a Redis of its own in a temporary directory and sends to loopback only. Keys and names
are known before Redis goes away. Every 200 is compared with what queries return afterwards.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import httpx

from tests.client import Client, equals, unique
from tests.load import PAGE, Load, check
from tests.redis_fixture import RedisServer, start_redis
from tests.service import Service
from tests.waiting import until

MIB = 1024 * 1024


def start(directory: Path, redis: RedisServer, deploy: str) -> Service:
    """The whole service on a Redis that this script can take away."""
    directory.mkdir()
    service = Service(directory, deploy, {"REDIS_URL": redis.url}, ("--port", "0"))
    service.wait_ready()
    return service


def outage(directory: Path, seconds: float, rate: float) -> list[tuple[str, str]]:
    """Redis is gone for `seconds` under load; afterwards every 200 is in query results once, in order."""
    redis = start_redis(directory)
    service = start(directory / "service", redis, "")
    try:
        client, name = Client(service.keys), unique("outage")
        with Load([service.url], service.keys["write_key"], name, rate=rate, clients=16) as load:
            load.wait_for(int(rate))
            redis.kill()
            end = time.monotonic() + seconds
            until(lambda: time.monotonic() > end, seconds + 5, "the outage's end")
            during = len(load.told.acknowledged)
            redis.start()
            load.wait_for(int(rate))
            back = time.monotonic()
            until(lambda: not list_waiting(service), 600, "empty spools")
            replayed = time.monotonic() - back
        check(client, name, load.told, deadline_seconds=600)
        assert in_order(client, name)
        told = load.told
        return [
            (f"Redis away for {seconds:.0f} s at {rate:.0f} events/s: acknowledged meanwhile", f"{during:,}"),
            ("refused, by status / broken connections", f"{dict(told.refused)} / {told.unanswered}"),
            ("longest time without a 200", f"{told.longest_gap_seconds:.2f} s"),
            ("spool empty after Redis is back, load going on", f"{replayed:.1f} s"),
            ("acknowledged in all; lost / doubled", f"{len(told.acknowledged):,}; 0 / 0"),
        ]
    finally:
        service.end()
        redis.kill()


def list_waiting(service: Service) -> bool:
    """Does any edge report groups in its spool?"""
    for line in httpx.get(f"{service.url}/metrics", timeout=10).text.splitlines():
        if line.startswith("eventbunker_spool_groups"):
            return float(line.split()[-1]) > 0
    return True


def in_order(client: Client, event_name: str) -> bool:
    """By time recorded, each client's numbers rise: a client sends its next event after the answer."""
    last: dict[int, int] = defaultdict(lambda: -1)
    offset = 0
    while True:
        page = client.rows(
            filters=[equals("event_name", event_name)],
            order_by=[
                {"field_name": name, "direction": "ASC"} for name in ("time_recorded", "unique_req_id")
            ],
            limit=PAGE,
            offset=offset,
        )
        for event in page:
            sender = event["client"]
            if event["number"] <= last[sender]:
                return False
            last[sender] = event["number"]
        offset += len(page)
        if len(page) < PAGE:
            return True


def full(directory: Path, rate: float) -> list[tuple[str, str]]:
    """A small spool fills up: 503s are counted, and what was accepted before and after is not lost."""
    redis = start_redis(directory)
    service = start(directory / "service", redis, f"[spool]\nmax_bytes = {16 * MIB}\n")
    try:
        client, name = Client(service.keys), unique("full")
        with Load([service.url], service.keys["write_key"], name, rate=rate, clients=16) as load:
            load.wait_for(int(rate))
            redis.kill()
            until(lambda: load.told.refused[503] >= 500, 300, "a spool that is full")
            accepted = len(load.told.acknowledged)
            redis.start()
            load.wait_for(int(2 * rate))
        check(client, name, load.told, deadline_seconds=300)
        return [
            ("a spool of 16 MiB that fills: accepted before", f"{accepted:,}"),
            ("answers by status other than 200", str(dict(load.told.refused))),
            ("acknowledged in all; lost / doubled", f"{len(load.told.acknowledged):,}; 0 / 0"),
        ]
    finally:
        service.end()
        redis.kill()


def main() -> None:
    """Both parts, as a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rate", type=float, default=500)
    chosen = parser.parse_args()
    print("| Figure | Value |\n| --- | --- |")
    for part in ("outage", "full"):
        with tempfile.TemporaryDirectory() as directory:
            if part == "outage":
                rows = outage(Path(directory), chosen.seconds, chosen.rate)
            else:
                rows = full(Path(directory), chosen.rate)
        for figure, value in rows:
            print(f"| {figure} | {value} |", flush=True)


if __name__ == "__main__":
    main()
