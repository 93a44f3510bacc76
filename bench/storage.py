"""Bytes on disk: what an event of 241 bytes takes in the store, column by column, and what inserting it costs.

    python -m bench.storage            1 million events, as they were written and merged into one part
    python -m bench.storage 1 rich     the same with more values in as many bytes

It starts a store of its own in a temporary directory and fills it as the drain does: rows by `workers.rows`,
inserts of 10,000, fsync on. `Filled` is what bench/queries.py works on. Ten millions are one million that went
that way and nine copies that the engine made of it, with other times, customers and ids in columns and body,
hours apart, so that a copy is never near its original on disk.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from app.store import Store
from bench import mix
from tests.store_fixture import StoreServer, start_store
from tests.waiting import until
from workers.migrate import migrate
from workers.rows import COLUMNS, INSERT, INSERT_SETTINGS

DATABASE = "bench"
SEED_EVENTS = 1_000_000
SHIFT_MS = 10_871_309  # about three hours, which no copy is near
STATEMENT_SECONDS = 900
_SPAN_MS = mix.DAYS * mix.DAY_MS


def _shifted(column: str) -> str:
    moved = f"(toUnixTimestamp64Milli({column}) - {mix.FIRST_MS} + {{shift}}) % {_SPAN_MS} + {mix.FIRST_MS}"
    return f"fromUnixTimestamp64Milli({moved}, 'UTC')"


def _iso(moment: str) -> str:
    return f"concat(replaceOne(toString({moment}), ' ', 'T'), 'Z')"


_COPIED = {
    "event_time": "new_time",
    "time_recorded": "new_recorded",
    "customer_identifier": "new_customer",
    "body": f"replaceOne(replaceOne(body, {_iso('event_time')}, {_iso('new_time')}), customer_identifier, new_customer)",
    # Milliseconds, edge, counter and index, as app.gate and app.track make them.
    "unique_req_id": (
        "toFixedString(concat(substring(reverse(toFixedString(reinterpretAsString("
        "toUnixTimestamp64Milli(new_recorded)), 8)), 3, 6), substring(reinterpretAsString("
        "cityHash64(substring(unique_req_id, 7, 3), {number})), 1, 3), substring(unique_req_id, 10)), 16)"
    ),
}
_COPY = (
    f"INSERT INTO events ({', '.join(COLUMNS)}) SELECT {', '.join(_COPIED.get(name, name) for name in COLUMNS)}"
    f" FROM (SELECT *, {_shifted('event_time')} AS new_time, {_shifted('time_recorded')} AS new_recorded,"
    " concat('c_', substring(lower(hex(cityHash64(customer_identifier, {number}))), 1, 9)) AS new_customer"
    " FROM seed) SETTINGS max_block_size = 65536, min_insert_block_size_rows = 100000,"
    " min_insert_block_size_bytes = 0, max_insert_block_size = 100000"
)


class Filled:
    """A store with the service's tables and `count` events of the mix."""

    def __init__(self, server: StoreServer, count: int) -> None:
        self.server = server
        self.count = count
        self._client = httpx.Client(base_url=server.url, headers={"X-ClickHouse-Key": server.token})

    def post(self, sql: str, content: bytes | None = None, **options: Any) -> httpx.Response:
        """One statement, with `content` as its data."""
        params: dict[str, Any] = {"database": DATABASE, "max_execution_time": STATEMENT_SECONDS, **options}
        if content is not None:
            params["query"] = sql
        body = sql.encode() if content is None else content
        response = self._client.post("/", params=params, content=body, timeout=STATEMENT_SECONDS)
        if response.status_code != 200:
            raise RuntimeError(response.text[:1000])
        return response

    def text(self, sql: str, **options: Any) -> str:
        """The answer of one statement as TabSeparated."""
        return self.post(sql, **options).text.strip()

    def cpu_seconds(self) -> float:
        """What the store's process has used of all processors so far."""
        fields = Path(f"/proc/{self.server.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_megabytes(self) -> int:
        """The most memory that the store's process has had."""
        status = Path(f"/proc/{self.server.pid}/status").read_text()
        return next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def wait_for_merges(self) -> None:
        """Until no part is being merged, twice in a row."""
        for _ in range(2):
            time.sleep(1)
            until(lambda: self.text("SELECT count() FROM system.merges") == "0", 600, "the end of merges")

    def load(self, *, rich: bool = False) -> dict[str, float]:
        """Insert the events; seconds and processor seconds for a million of those that went the drain's way."""
        rows = mix.row_blocks(min(self.count, SEED_EVENTS), rich=rich)
        elapsed, began, inserted = 0.0, self.cpu_seconds(), 0
        for number, block in enumerate(rows):
            at = time.perf_counter()
            self.post(INSERT, block, insert_deduplication_token=f"block {number}", **INSERT_SETTINGS)
            elapsed += time.perf_counter() - at
            inserted += 10_000
        self.wait_for_merges()
        used = self.cpu_seconds() - began
        if self.count > SEED_EVENTS:
            self.text("CREATE TABLE seed AS events")
            self.text("ALTER TABLE seed ATTACH PARTITION 202511 FROM events")
            for number in range(1, self.count // SEED_EVENTS):
                self.text(_COPY.replace("{shift}", str(number * SHIFT_MS)).replace("{number}", str(number)))
            self.text("DROP TABLE seed SYNC")
            self.wait_for_merges()
        millions = inserted / 1_000_000
        return {"insert_seconds_a_million": elapsed / millions, "cpu_seconds_a_million": used / millions}

    def sizes(self) -> dict[str, Any]:
        """Rows, parts, and bytes for each row: in all, and of each column that takes a twentieth or more."""
        rows, parts, total, indices, marks = map(
            float,
            self.text(
                "SELECT sum(rows), count(), sum(bytes_on_disk), sum(secondary_indices_compressed_bytes"
                " + primary_key_size), sum(marks_bytes) FROM system.parts"
                " WHERE active AND table = 'events' AND database = currentDatabase()"
            ).split("\t"),
        )
        columns = self.text(
            "SELECT column, sum(column_bytes_on_disk) AS size FROM system.parts_columns WHERE active"
            " AND table = 'events' AND database = currentDatabase() GROUP BY column ORDER BY size DESC"
        )
        each = {name: int(size) / rows for name, size in (line.split("\t") for line in columns.splitlines())}
        return {
            "rows": int(rows),
            "parts": int(parts),
            "bytes_an_event": total / rows,
            "indices": indices / rows,
            "marks": marks / rows,
            "columns": {name: size for name, size in each.items() if size >= 0.05},
        }


@contextmanager
def filled(count: int, *, rich: bool = False) -> Iterator[tuple[Filled, dict[str, float]]]:
    """A store with `count` events, and what loading them cost."""
    with tempfile.TemporaryDirectory() as directory:
        server = start_store(Path(directory) / "data")
        try:
            asyncio.run(_migrate(server))
            store = Filled(server, count)
            yield store, store.load(rich=rich)
        finally:
            server.stop()


async def _migrate(server: StoreServer) -> None:
    store = Store(server.url, database=DATABASE, username="default", password=server.token)
    try:
        await migrate(store, DATABASE)
    finally:
        await store.close()


def measure(count: int = SEED_EVENTS, *, rich: bool = False) -> dict[str, Any]:
    """Load `count` events; sizes as they were written, and merged into one part."""
    with filled(count, rich=rich) as (store, cost):
        written = store.sizes()
        store.text("OPTIMIZE TABLE events FINAL")
        body = float(store.text("SELECT avg(length(body)) FROM events"))
        return {
            "body_bytes": body,
            "load": cost,
            "written": written,
            "merged": store.sizes(),
            "peak_megabytes": store.peak_megabytes(),
        }


def main() -> None:
    """Print the table."""
    count = int(float(sys.argv[1]) * 1_000_000) if len(sys.argv) > 1 else SEED_EVENTS
    found = measure(count, rich="rich" in sys.argv[2:])
    merged, written = found["merged"], found["written"]
    print(
        f"{merged['rows']:,} rows, bodies of {found['body_bytes']:.1f} bytes, in {written['parts']} parts\n"
    )
    print("| | bytes an event |\n| --- | --- |")
    for name, size in merged["columns"].items():
        print(f"| `{name}` | {size:.2f} |")
    print(f"| indices | {merged['indices']:.2f} |\n| marks | {merged['marks']:.2f} |")
    print(f"| **together, merged** | **{merged['bytes_an_event']:.1f}** |")
    print(f"| together, as written | {written['bytes_an_event']:.1f} |\n")
    print(
        f"insert and merges: {found['load']['cpu_seconds_a_million']:.1f} CPU seconds a million rows, ",
        end="",
    )
    print(f"{found['load']['insert_seconds_a_million']:.1f} s; memory at most {found['peak_megabytes']} MB")


if __name__ == "__main__":
    main()
