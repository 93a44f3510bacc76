"""The drain against the engine: the same rows in the same inserts, with everything around and with nothing.

    python -m bench.drain                    250,000 events, three rounds, in entries as edges make them
    python -m bench.drain 500000 5 batch     more, and the events came by POST /batch, 1,000 a request
    python -m bench.drain 100000 3 lone      each event is an entry of its own, as at a low rate

A: a stream that holds all events, one real `eventbunker drain`, the embedded store: from the lease to the
last acknowledgement. B: the engine in one process, which loads the same RowBinary blocks one after the other
in the way the embedded store does (a file in memory, one connection each), the same table, fsync on: from the
first insert to the last OK. No Redis, no HTTP, no plan, no building of rows. A and B alternate. The events
are varied and the same every time: `events_of`.

CPU seconds are given beside the clock: on a shared machine they say more.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from app import ledger, redis_client
from app import store as store_client
from app.enrich import Geography
from app.stream import Record, encode_record, encode_request, join_group, split_group
from app.stream_scripts import APPEND
from bench.catch_up import cpu_seconds, memory_mb, start_drain
from tests.pipeline_kit import make_keys, make_settings
from tests.redis_fixture import start_redis
from tests.store_fixture import ROOT, start_store
from tests.waiting import async_until
from workers.embedded_config import Limits
from workers.embedded_engine import Engine, Job
from workers.embedded_statement import parse
from workers.migrate import migrate
from workers.rows import INSERT, INSERT_SETTINGS, to_row

EVENTS, ROUNDS = 250_000, 3
DATABASE = "eventbunker"
ENTRY = {"single": 100, "batch": 1000, "lone": 1}  # events in an entry: under load, by POST /batch, at night
PROJECT = "prj_2Yx0bQhT7mEwLkZs"
NAMES = (
    "page_view",
    "button_click",
    "search",
    "video_progress",
    "add_to_cart",
    "login",
    "purchase",
    "refund",
)
WEIGHTS = (45, 20, 10, 8, 7, 5, 4, 1)
TAGS = (
    "cat",
    "dog",
    "new",
    "sale",
    "beta",
    "gift",
    "blue",
    "red",
    "small",
    "large",
    "mobile",
    "trial",
    "vip",
    "eu",
)
SYSTEMS = (
    *("Windows NT 10.0; Win64; x64", "Macintosh; Intel Mac OS X 10_15_7", "X11; Linux x86_64"),
    *("Linux; Android 10; K", "iPhone; CPU iPhone OS 17_5 like Mac OS X"),
)
AGENTS = [
    f"Mozilla/5.0 ({SYSTEMS[i % 5]}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{100 + i // 5}.0.0.0 Safari/537.36"
    for i in range(150)
]
MAX_SECONDS = 600.0
SUM = (
    "SELECT count(), uniqExact(unique_req_id), toString(groupBitXor(cityHash64(unique_req_id, body, ifNull(user_agent, '-'),"
    " ifNull(browser_name, '-'), ifNull(page_url, '-'), event_time, customer_identifier))) FROM events"
)

Figures = dict[str, float]


def events_of(count: int) -> Iterator[Record]:
    """Varied events of about 241 bytes, the same ones every time; seven of ten come from browsers."""
    chance = random.Random(4)
    first = 1_761_955_200_000  # one hour of 2025-11-01
    for number in range(count):
        moment = first + number * 3_600_000 // count
        late = chance.randrange(3000)
        time_ = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime((moment - late) // 1000))
        tags = '","'.join(chance.sample(TAGS, chance.randrange(1, 4)))
        page = f"/{chance.choice(TAGS)}/{int(chance.random() ** 3 * 2000)}"
        body = (
            f'{{"event_name":"{chance.choices(NAMES, WEIGHTS)[0]}","timestamp":"{time_}.{(moment - late) % 1000:03d}Z",'
            f'"customer_identifier":"c_{chance.randrange(count // 20 + 1):010x}","site":"{chance.choice(TAGS)}.example",'
            f'"plan":"{chance.choice(("free", "pro", "team"))}","amount":{chance.randrange(1, 90_000) / 100},'
            f'"qty":{chance.randrange(1, 400)},"tags":["{tags}"],"paid":{chance.choice(("true", "false"))},'
            f'"page":{{"path":"{page}","secs":{chance.randrange(1, 3000) / 10}}}}}'
        )
        is_browser = chance.random() < 0.7
        agent = AGENTS[int(chance.random() ** 2 * len(AGENTS))] if is_browser else ""
        referer = f"https://shop.example{page}" if is_browser else ""
        yield Record(chance.randbytes(12), 1, moment, PROJECT, "", "", agent, referer, body.encode())


def groups(events: int, form: str) -> Iterator[tuple[bytes, str, list[Record]]]:
    """Each entry: its payload, its counts, its events. `batch`: as if all of them had come in one request."""
    size = ENTRY[form]
    source = events_of(events)
    while some := list(itertools.islice(source, size)):
        if form == "batch":
            carried = [(index, one.body, "") for index, one in enumerate(some, 1)]
            about = (some[0].request_id, some[0].time_recorded, PROJECT, "")
            payload = join_group([encode_request(*about, context=("", "", ""), events=carried)])
            some = split_group(payload)
        else:
            payload = join_group([encode_record(one) for one in some])
        yield payload, ledger.encode_counts(ledger.count(some)), some


def write_blocks(path: Path, events: int, form: str, batch_rows: int, batch_bytes: int) -> int:
    """Every insert of the drain into `path`, its length before it: whole entries until a batch is full.

    Returns the number of events.
    """
    nowhere = Geography("")
    rows: list[bytes] = []
    size = count = 0
    with path.open("wb") as file:

        def close() -> None:
            nonlocal size
            block = b"".join(rows)
            file.write(len(block).to_bytes(8, "big") + block)
            rows.clear()
            size = 0

        for payload, _, records in groups(events, form):
            rows += [to_row(one, nowhere).data for one in records]
            size += len(payload)
            count += len(records)
            if len(rows) >= batch_rows or size >= batch_bytes:
                close()
        if rows:
            close()
    return count


def load(data: Path, blocks: Path) -> None:
    """B, in a process of its own: prints its figures as JSON."""
    engine = Engine(data, Limits())
    settings = {name: str(value) for name, value in INSERT_SETTINGS.items()}
    statement = parse(INSERT.encode() + b"\n")
    began, cpu = time.monotonic(), time.process_time()
    number = 0
    with blocks.open("rb") as file:
        while head := file.read(8):
            block = file.read(int.from_bytes(head, "big"))
            job = Job(
                statement, f"b{number}", {**settings, "insert_deduplication_token": f"{number}"}, {}, DATABASE,
                "TabSeparated", (block,),
            )  # fmt: skip
            engine.admit(job)
            engine.run(job)
            engine.release(job.query_id)
            number += 1
    figures = {
        "seconds": time.monotonic() - began,
        "engine_cpu": time.process_time() - cpu,
        "inserts": number,
    }
    digest = engine.ask(SUM.replace("FROM events", f"FROM {DATABASE}.events")).strip()
    print(json.dumps({**figures, "digest": digest}), flush=True)
    os._exit(0)


def run_engine(directory: Path, blocks: Path) -> tuple[Figures, str]:
    """B on an empty table."""

    async def make_tables() -> None:
        store = store_client.connect(make_settings(directory, "unix:///none", server, DATABASE))
        await migrate(store, DATABASE)
        await store.close()

    server = start_store(directory / "data")
    asyncio.run(make_tables())
    server.stop()
    command = [sys.executable, "-m", "bench.drain", "load", str(directory / "data"), str(blocks)]
    printed = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=MAX_SECONDS
    ).stdout
    figures = json.loads(printed)
    return figures, figures.pop("digest")


async def run_drain(directory: Path, events: int, form: str) -> tuple[Figures, str]:
    """A on an empty Redis and an empty table."""
    redis_server = start_redis(directory, "")
    server = start_store(directory / "data")
    settings = make_settings(directory, redis_server.url, server, DATABASE)
    redis, store, keys = redis_client.connect(settings), store_client.connect(settings), make_keys(settings)
    drain: subprocess.Popen[bytes] | None = None
    try:
        await migrate(store, DATABASE)
        await redis.config_set("appendfsync", "no")  # filling is not what is measured
        names = (keys.entries, keys.producers, keys.producers_order, keys.ledger, keys.hours)
        for number, (payload, counts, records) in enumerate(groups(events, form), 1):
            await redis.eval(APPEND, 5, *names, "bench", str(number), str(len(records)), counts, payload)
        await redis.config_set("appendfsync", "always")
        drain = start_drain(directory, redis_server.url, server)
        await async_until(lambda: redis.exists(keys.lease), 60, "the lease")
        pids = {"drain": drain.pid, "store": server.pid, "redis": redis_server.process.pid}
        before, began = {name: cpu_seconds(pid) for name, pid in pids.items()}, time.monotonic()

        async def is_empty() -> bool:
            if drain.poll() is not None:
                raise AssertionError(f"the drain has ended: {(directory / 'drain.log').read_text()[-1000:]}")
            return not await redis.xlen(keys.entries)

        await async_until(is_empty, MAX_SECONDS, "an empty stream")
        seconds = time.monotonic() - began
        figures = {f"{name}_cpu": cpu_seconds(pid) - before[name] for name, pid in pids.items()}
        figures |= {"seconds": seconds, "drain_mb": memory_mb(drain.pid, "VmHWM")}
        return figures, "\t".join(str(value) for value in (await store.ask(SUM)).rows[0])
    finally:
        if drain is not None:
            drain.send_signal(signal.SIGTERM)
            drain.wait(30)
        await store.close()
        await redis.aclose()
        server.stop()
        redis_server.kill()


def measure(events: int = EVENTS, rounds: int = ROUNDS, form: str = "single") -> dict[str, object]:
    """Medians of alternating runs. `share`: the drain's rate by the engine's, round by round."""
    drains: list[Figures] = []
    engines: list[Figures] = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        blocks = root / "blocks"
        consumer = make_settings(root, "unix:///none").consumer
        count = write_blocks(blocks, events, form, consumer.max_batch_size, consumer.max_batch_bytes)
        for number in range(rounds):
            (root / f"a{number}").mkdir()
            (root / f"b{number}").mkdir()
            drained, digest = asyncio.run(run_drain(root / f"a{number}", events, form))
            loaded, wanted = run_engine(root / f"b{number}", blocks)
            if digest != wanted or int(digest.split("\t")[1]) != count:
                raise AssertionError(f"different rows: {digest!r} and {wanted!r} of {count} events")
            drains.append(drained)
            engines.append(loaded)
    seconds, alone = _median(drains, "seconds"), _median(engines, "seconds")
    return {
        "events": count,
        "form": form,
        "inserts": engines[0]["inserts"],
        "drain_events_s": count / seconds,
        "engine_events_s": count / alone,
        "share": statistics.median(b["seconds"] / a["seconds"] for a, b in zip(drains, engines, strict=True)),
        "drain_cpu_us": _median(drains, "drain_cpu") / count * 1e6,
        "store_cpu_us": _median(drains, "store_cpu") / count * 1e6,
        "redis_cpu_us": _median(drains, "redis_cpu") / count * 1e6,
        "engine_cpu_us": _median(engines, "engine_cpu") / count * 1e6,
        "drain_mb": max(one["drain_mb"] for one in drains),
    }


def _median(figures: Sequence[Figures], name: str) -> float:
    return statistics.median(one[name] for one in figures)


def main() -> None:
    """Print the figures as rows of a table."""
    if sys.argv[1:2] == ["load"]:
        load(Path(sys.argv[2]), Path(sys.argv[3]))
    events = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS
    form = sys.argv[3] if len(sys.argv) > 3 else "single"
    for name, value in measure(events, rounds, form).items():
        print(f"| {name} | {value:,.2f} |" if isinstance(value, float) else f"| {name} | {value} |")


if __name__ == "__main__":
    main()
