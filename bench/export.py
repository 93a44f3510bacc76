"""Events into a running service, and out of it in each format: is it what was sent, how fast, at what memory?

    python -m bench.export              a million events: about five minutes, 1.5 GB of disk
    python -m bench.export 0.1          a hundred thousand

The events are those of `bench.mix`. They go the whole way, `POST /batch` to the store, and come back over HTTP; each
file is read with the standard library or pyarrow, and compared with what was sent. Memory is the resident set of edge
and store while the file is written, looked at ten times a second. tests/test_export.py does the same with 20,000.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec

from bench import mix
from bench.process import memory_mb
from tests.client import Client
from tests.export_check import FORMATS, Sent, batches
from tests.service import Service
from tests.waiting import until

BATCH = 5000
LOOK_SECONDS = 0.1
ALL = {"start": "1970-01-01", "end": "2101-01-01"}
HTTP_SECONDS = 120.0


class Peak:
    """The largest resident sets of edge and store, in MB, while the context lasts."""

    def __init__(self, service: Service) -> None:
        self._pids = {role: service.pids(role)[0] for role in ("edge", "store")}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.before = self._now()
        self.most = dict(self.before)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _now(self) -> dict[str, int]:
        return {role: round(memory_mb(pid)["rss"]) for role, pid in self._pids.items()}

    def _look(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self.most = {role: max(size, self.most[role]) for role, size in self._now().items()}


def fill(client: Client, count: int) -> Sent:
    """Track `count` events; they are in queries when this returns."""
    sent = Sent()
    bodies = (one.body for block in mix.blocks(count) for one in block if one.project_id == mix.PROJECT)
    key = {"x-eventbunker-write-key": client.keys["write_key"], "content-type": "application/x-ndjson"}
    for some in batches(bodies, BATCH):
        answer = client.http.post("/batch", content=b"\n".join(some), headers=key, timeout=HTTP_SECONDS)
        assert answer.json()["accepted"] == len(some), answer.text[:1000]
        for body in some:
            sent.add(msgspec.json.decode(body))
    counted: dict[str, Any] = {"computations": [{"function": "count"}]}
    until(lambda: client.rows(**counted)[0]["count"] == sent.whole.count, 600, "all events in queries")
    return sent


def export(client: Client, file: Path, format_: str, **request: Any) -> int:
    """Write one file; how many events were promised."""
    key = {"x-eventbunker-query-key": client.keys["query_key"]}
    asked = {"time_period": ALL, "format": format_, **request}
    with client.http.stream(
        "POST", "/v1/export", json=asked, headers=key, timeout=HTTP_SECONDS
    ) as answer, file.open("wb") as out:  # fmt: skip
        assert answer.status_code == 200, answer.read()
        for piece in answer.iter_raw():
            out.write(piece)
        return int(answer.headers["x-eventbunker-event-count"])


def main() -> None:
    """Print the table."""
    count = int(float(sys.argv[1]) * 1_000_000) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as directory:
        service = Service(Path(directory), "", {}, ("--port", "0"))
        try:
            service.wait_ready()
            _measure(service, count, Path(directory))
        finally:
            service.end()


def _measure(service: Service, count: int, directory: Path) -> None:
    client = Client(service.keys, httpx.Client(base_url=service.url, timeout=HTTP_SECONDS, trust_env=False))
    began = time.perf_counter()
    sent = fill(client, count)
    print(f"{sent.whole.count:,} events sent and stored in {time.perf_counter() - began:.0f} s\n")
    print(
        "| | seconds | events/s | MB | edge, MB | store, MB | |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    for format_, compression in (*((one, "none") for one in FORMATS), ("ndjson", "zstd")):
        file = directory / f"{format_}.{compression}"
        began = time.perf_counter()
        with Peak(service) as peak:
            promised = export(client, file, format_, compression=compression)
        seconds = time.perf_counter() - began
        assert promised == sent.whole.count
        size = file.stat().st_size / 1e6
        if compression == "none":
            sent.check(file, format_)
        memory = [f"{peak.before[role]} → {peak.most[role]}" for role in ("edge", "store")]
        print(
            f"| {format_}{'' if compression == 'none' else ', ' + compression} | {seconds:.1f} "
            f"| {promised / seconds:,.0f} | {size:,.0f} | {memory[0]} | {memory[1]} "
            f"| {'equal to what was sent' if compression == 'none' else ''} |",
            flush=True,
        )
        file.unlink()
    client.http.close()


if __name__ == "__main__":
    main()
