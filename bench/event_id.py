"""What it costs to recognise copies by event id, and what the other ways would have cost.

    python -m bench.event_id lookups 2000000     the chosen table with so many ids of seven days
    python -m bench.event_id candidates 4000000  the other ways, with so many events, half of them with an id
    python -m bench.event_id inserts             blocks of 5,000 rows, fsynced: without ids, with, projections

Each starts a store of its own in a temporary directory. Times are medians of the whole question; in brackets
what the store's process used of a processor, since the machine may be shared.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx

from app.enrich import Geography
from app.store import Store
from app.stream import Record
from tests.pipeline_kit import record
from tests.store_fixture import StoreServer, start_store
from tests.waiting import until
from workers import plan as plans
from workers.event_ids import EventIds
from workers.items import Items, make_item
from workers.migrate import migrate
from workers.rows import INSERT, INSERT_SETTINGS, Rows, event_key

PROJECT, DATABASE = "prj_test", "bench"
ASKED = (1, 100, 1_000, 5_000)
CHUNK = 500_000
HALVES = (
    "reinterpretAsUInt64(substring(SHA256(concat('prj_test', '\\0', 'id-' || toString(number))) AS d, 1, 8))",
    "reinterpretAsUInt64(substring(d, 9, 8))",
)
MOMENT = "now64(3) - INTERVAL toUInt64(({rows} - number) * 604800000 / {rows}) MILLISECOND"
WIDE = "(SELECT key, project_id, event_id, time_recorded, unique_req_id ORDER BY key)"
CANDIDATES = {
    "no index: scan of the digests": "",
    "bloom_filter(0.0001)": ", INDEX i key TYPE bloom_filter(0.0001) GRANULARITY 1",
    "projection INDEX key TYPE basic": ", PROJECTION p INDEX key TYPE basic",
    "projection (key, _part_offset), granules of 256": (
        ", PROJECTION p (SELECT key, _part_offset ORDER BY key) WITH SETTINGS (index_granularity = 256)"
    ),
    "projection with all that is needed": f", PROJECTION p {WIDE}",
    "the same, granules of 256": f", PROJECTION p {WIDE} WITH SETTINGS (index_granularity = 256)",
}
EVENTS = """CREATE TABLE candidate (
    project_id LowCardinality(String), event_name LowCardinality(String),
    event_time DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    time_recorded DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    unique_req_id FixedString(16) CODEC(ZSTD(1)), event_id String CODEC(ZSTD(1)), key UInt64 CODEC(LZ4),
    body String CODEC(ZSTD(1)), INDEX t time_recorded TYPE minmax GRANULARITY 1 {index}
) ENGINE = MergeTree PARTITION BY toYYYYMM(time_recorded) ORDER BY (project_id, event_name, event_time)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"""


class Figures:
    """A store with the service's tables, and a clock for what it is asked."""

    def __init__(self, server: StoreServer) -> None:
        self.server = server
        self.store = Store(server.url, database=DATABASE, username="default", password=server.token)

    def run(self, sql: str) -> str:
        """A statement without a deadline of ours."""
        response = httpx.post(
            self.server.url,
            params={"database": DATABASE, "max_execution_time": 3000},
            headers={"X-ClickHouse-Key": self.server.token},
            content=sql,
            timeout=3000,
        )
        response.raise_for_status()
        return response.text.strip()

    def cpu_seconds(self) -> float:
        """What the store's process has used so far."""
        fields = Path(f"/proc/{self.server.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait_for_merges(self) -> None:
        """Until no part is being merged, twice in a row."""
        for _ in range(2):
            time.sleep(1)
            until(lambda: self.run("SELECT count() FROM system.merges") == "0", 600, "the end of merges")

    def size(self, table: str) -> str:
        """Rows, parts, bytes on disk for each row."""
        sql = "SELECT sum(rows), count(), round(sum(bytes_on_disk) / sum(rows), 1) FROM system.parts"
        rows, parts, each = self.run(f"{sql} WHERE active AND table = '{table}'").split()
        return f"{int(rows):,} rows, {parts} parts, {each} bytes a row"


def _batch(kind: str, count: int, rows: int, step: int, chance: random.Random) -> list[Record]:
    """Events with ids that are all new, all known, or half and half."""

    def one(position: int) -> Record:
        is_known = kind == "known" or (kind == "mixed" and position % 2)
        number = chance.randrange(0, rows, step) if is_known else rows * 10 + chance.getrandbits(60)
        return record(b'{"event_name":"test","event_id":"id-%d"}' % number)

    return [one(position) for position in range(count)]


def _items(records: list[Record]) -> Items:
    rows = Rows()
    return Items(make_item("1-0", one, Geography(""), rows) for one in records)


async def lookups(figures: Figures, rows: int) -> None:
    """The drain's own look-up, on a table of `rows` ids."""
    moment = MOMENT.format(rows=rows)
    for start in range(0, rows, CHUNK):
        figures.run(
            f"INSERT INTO event_ids SELECT {HALVES[0]}, {HALVES[1]}, 'prj_test', {moment},"
            f" reinterpretAsFixedString(sipHash128(number)) FROM numbers({start}, {min(CHUNK, rows - start)})"
        )
    figures.wait_for_merges()
    print(f"\n`event_ids`, as it was written: {figures.size('event_ids')}")
    await _ask_all(figures, rows, 1)
    figures.run("OPTIMIZE TABLE event_ids FINAL")
    print(f"\n`event_ids`, merged: {figures.size('event_ids')}")
    await _ask_all(figures, rows, 1)
    for _ in range(100):
        await EventIds(figures.store, timeout_seconds=60).remember(
            *_stored(_batch("new", 50, rows, 1, random.Random()))
        )
    print(f"\n`event_ids`, after a hundred small inserts: {figures.size('event_ids')}")
    await _ask_all(figures, rows, 1)


def _stored(records: list[Record]) -> tuple[plans.Plan, Items]:
    items = _items(records)
    return plans.make("bench", items), items


async def _ask_all(figures: Figures, rows: int, step: int) -> None:
    ids = EventIds(figures.store, timeout_seconds=60)
    chance = random.Random(1)
    print("| ids of a batch | new | known | half and half |\n| --- | --- | --- | --- |")
    for count in ASKED:
        cells = []
        for kind in ("new", "known", "mixed"):
            seconds, began = [], figures.cpu_seconds()
            for _ in range(7):
                items = _items(_batch(kind, count, rows, step, chance))
                at = time.perf_counter()
                await ids.look_up(items)
                seconds.append(time.perf_counter() - at)
            cpu = (figures.cpu_seconds() - began) / 7
            cells.append(f"{statistics.median(seconds) * 1000:.0f} ms ({cpu * 1000:.0f})")
        print(f"| {count:,} | {' | '.join(cells)} |", flush=True)


async def candidates(figures: Figures, rows: int) -> None:
    """Every other way, one after the other, asked for the same digests."""
    moment = MOMENT.format(rows=rows)
    for name, index in CANDIDATES.items():
        figures.run("DROP TABLE IF EXISTS candidate SYNC")
        figures.run(EVENTS.format(index=index))
        for start in range(0, rows, CHUNK):
            figures.run(
                f"INSERT INTO candidate SELECT 'prj_test', concat('e', toString(number % 20)), t, t,"
                f" reinterpretAsFixedString(sipHash128(number)), if(number % 2, '', lower(hex(sipHash128(n)))),"
                f' if(number % 2, 0, k), concat(\'{{"event_name":"e","x":"\', hex(sipHash64(n)), \'"}}\')'
                f" FROM (SELECT number, number AS n, {moment} AS t, {HALVES[0]} AS k"
                f" FROM numbers({start}, {min(CHUNK, rows - start)}))"
            )
        figures.wait_for_merges()
        print(f"\n{name}: {figures.size('candidate')}")
        chance = random.Random(1)
        print("| ids of a batch | new | known | half and half |\n| --- | --- | --- | --- |")
        for count in ASKED:
            cells = []
            for kind in ("new", "known", "mixed"):
                seconds, began = [], figures.cpu_seconds()
                for _ in range(5):
                    keys = [item.event_key[:8] for item in _items(_batch(kind, count, rows, 2, chance))]
                    at = time.perf_counter()
                    figures.run(
                        "SELECT project_id, event_id, time_recorded, hex(unique_req_id) FROM candidate"
                        " WHERE time_recorded > now() - INTERVAL 7 DAY AND key IN (SELECT reinterpretAsUInt64("
                        f"substring(unhex('{b''.join(keys).hex()}'), number * 8 + 1, 8))"
                        f" FROM numbers({count}))"
                    )
                    seconds.append(time.perf_counter() - at)
                cpu = (figures.cpu_seconds() - began) / 5
                cells.append(f"{statistics.median(seconds) * 1000:.0f} ms ({cpu * 1000:.0f})")
            print(f"| {count:,} | {' | '.join(cells)} |", flush=True)


async def inserts(figures: Figures, rows: int) -> None:
    """Blocks of `rows` events into the real table: without ids, with ids, and with projections in its place."""
    projection = "ALTER TABLE events ADD PROJECTION p (SELECT event_id, {more} ORDER BY event_id)"
    wide = projection.format(more="project_id, time_recorded, unique_req_id")
    ways = (
        ("no event has an id", False, False, ""),
        ("every event has one, which is not remembered", True, False, ""),
        ("every event has one, in `event_ids`", True, True, ""),
        ("… and a projection (event_id, _part_offset) instead", True, False, projection.format(more="_part_offset")),
        ("… and a projection with all that is needed instead", True, False, wide),
    )  # fmt: skip
    print("| blocks of 5,000 | p50 | rows/s | processor, a block |\n| --- | --- | --- | --- |")
    for name, has_ids, remembers, ddl in ways:
        figures.run("ALTER TABLE events DROP PROJECTION IF EXISTS p SETTINGS mutations_sync = 2")
        figures.run("TRUNCATE TABLE events")
        if ddl:
            figures.run(ddl)
        ids = EventIds(figures.store, timeout_seconds=60)
        seconds, began = [], figures.cpu_seconds()
        for number in range(40):
            plan, items = _stored([_event(has_ids) for _ in range(rows)])
            block = plans.block(plan.parts[0], items)
            at = time.perf_counter()
            await figures.store.insert(
                INSERT,
                block,
                token=f"{name} {number}",
                query_id=f"{has_ids}-{remembers}-{number}-{time.monotonic_ns()}",
                settings=INSERT_SETTINGS,
                timeout_seconds=60,
            )
            if remembers:
                await ids.remember(plan, items)
            seconds.append(time.perf_counter() - at)
        p50 = statistics.median(seconds)
        cpu = (figures.cpu_seconds() - began) / 40
        print(f"| {name} | {p50 * 1000:.0f} ms | {rows / p50:,.0f} | {cpu * 1000:.0f} ms |", flush=True)


def _event(has_id: bool) -> Record:
    own = f',"event_id":"{os.urandom(16).hex()}"' if has_id else ""
    return record(f'{{"event_name":"purchase","price":{random.random()},"plan":"pro"{own}}}'.encode())


PARTS = {"lookups": (lookups, 2_000_000), "candidates": (candidates, 4_000_000), "inserts": (inserts, 5_000)}


async def _measure(server: StoreServer, part: str, rows: int) -> None:
    figures = Figures(server)
    try:
        await migrate(figures.store, DATABASE)
        await PARTS[part][0](figures, rows)
    finally:
        await figures.store.close()


def main() -> None:
    """Measure what was named."""
    if not sys.argv[1:] or sys.argv[1] not in PARTS:
        sys.exit(__doc__)
    part = sys.argv[1]
    rows = int(sys.argv[2]) if len(sys.argv) > 2 else PARTS[part][1]
    assert len(event_key(PROJECT, "id-1")) == 16
    with tempfile.TemporaryDirectory() as directory:
        server = start_store(Path(directory) / "data")
        try:
            asyncio.run(_measure(server, part, rows))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
