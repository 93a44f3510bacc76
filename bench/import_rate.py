"""`eventbunker import`: rows a second until queries see all of them, and what live events feel meanwhile.

python -m bench.import_rate          alone, without `make bench`
"""

from __future__ import annotations

import csv
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from bench import whole
from bench.bodies import DISTINCT_EVENTS, varied
from bench.context import Bench, Progress
from bench.markdown import table
from bench.process import Keeper
from bench.stats import centile
from bench.subjects import EVENTBUNKER
from tests.client import Client, unique
from tests.service import FROM_OUTSIDE, ROOT

TITLE = "Importing files"
SECONDS = (60.0, 25.0)
ROWS = 300_000
QUICK_ROWS = 100_000
IMPORT_SECONDS = 300.0
LIVE_SECONDS = 0.02  # between two live events


def measure(bench: Bench) -> dict[str, Any]:
    """The whole service, defaults; each format in turn, and the same file once more, when all of it is in."""
    rows = bench.choose(ROWS, QUICK_ROWS)
    files = write(bench.directory("files"), rows)
    with whole.start(bench) as running:
        running.client.track(event_name="first")
        levels = [one(bench, running, path, rows) for path in files]
        again = one(bench, running, files[0], rows)
    return {"rows": rows, "levels": levels, "again_seconds": again["seconds"]}


def write(directory: Path, rows: int) -> list[Path]:
    """The same events of 241 bytes in each format; those of NDJSON are 241 bytes."""
    source = random.Random(1)
    texts = [varied(source) for _ in range(min(rows, DISTINCT_EVENTS))]
    lines = [texts[number % len(texts)] for number in range(rows)]
    events = [json.loads(text) for text in lines]
    paths = [directory / f"events.{ending}" for ending in ("ndjson", "csv", "parquet")]
    paths[0].write_text("\n".join(lines) + "\n")
    with paths[1].open("w", newline="") as file:
        columns = [name for name in events[0] if name != "tags"]
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([json.dumps(event[name]).strip('"') for name in columns] for event in events)
    parquet.write_table(pyarrow.Table.from_pylist(events), paths[2])
    return paths


def one(bench: Bench, running: whole.Whole, path: Path, rows: int) -> dict[str, Any]:
    """One import to its end, live events beside it."""
    bench.progress.say(path.name)
    inherited = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE}
    service = running.service
    config = ["-c", str(service.directory / "deploy.toml")]
    options = ["--state", str(service.state), "--quiet", "--json"]
    with Live(service.keys) as live:
        before = running.cpu()
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [*EVENTBUNKER, *config, "import", str(path), *options],
            cwd=ROOT,
            env={**inherited, "WRITE_KEY": service.keys["write_key"]},
            stdout=subprocess.PIPE,
            timeout=IMPORT_SECONDS,
            check=True,
        )
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = {role: used - before[role] for role, used in running.cpu().items()}
    said = json.loads(done.stdout)
    if said["accepted"] != rows:
        raise RuntimeError(f"{path.name}: {said}")
    cpu["import"] = ended.ru_utime + ended.ru_stime - children.ru_utime - children.ru_stime
    return {
        "format": path.suffix[1:],
        "megabytes": round(path.stat().st_size / 1e6, 1),
        "seconds": said["seconds"],
        "rows_per_second": round(rows / said["seconds"]),
        "cpu_us_per_row": {role: round(used / rows * 1e6, 1) for role, used in cpu.items()},
        "live_p50_ms": round(centile(live.waits, 50) * 1000) if live.waits else None,
        "live_p99_ms": round(centile(live.waits, 99) * 1000) if live.waits else None,
    }


class Live:
    """Posts an event every 20 ms and waits until queries see it, one after the other, in a thread of its own."""

    def __init__(self, keys: dict[str, str]) -> None:
        self._client = Client(keys)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.waits: list[float] = []

    def __enter__(self) -> Live:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(30)
        self._client.http.close()

    def _run(self) -> None:
        body = json.dumps({"event_name": unique("live")}).encode()
        headers = {"x-eventbunker-write-key": self._client.keys["write_key"]}
        while not self._ending.wait(LIVE_SECONDS):
            began = time.monotonic()
            answer = self._client.http.post("/post?ack=stored", content=body, headers=headers)
            if answer.status_code == 200:
                self.waits.append(time.monotonic() - began)


def render(result: dict[str, Any]) -> str:
    """Its section of the report."""
    rows = [
        [
            f"{level['format']}, {level['megabytes']} MB",
            f"{level['rows_per_second']:,}",
            *(level["cpu_us_per_row"][role] for role in ("import", "redis", "drain", "store")),
            *(level[name] for name in ("live_p50_ms", "live_p99_ms")),
        ]
        for level in result["levels"]
    ]
    head = ["file", "rows/s", "import µs", "redis µs", "drain µs", "store µs", "live p50 ms", "live p99 ms"]
    return (
        f"{result['rows']:,} events of 241 bytes, from the command's start until queries see all of them; processor "
        "time of each part for one row; live: a lone event, from the request to the moment at which queries see it, "
        f"meanwhile.\n\n{table(head, rows)}\n\nThe first file once more, when all of it was in: "
        f"{result['again_seconds']} s.\n"
    )


def main() -> None:
    """Measure and print; ARGS: --quick."""
    with tempfile.TemporaryDirectory(dir=ROOT) as directory, Keeper() as keeper:
        work = Path(directory)
        progress = Progress({"import": SECONDS[0]})
        progress.start("import")
        result = measure(Bench(work, work, keeper, progress, is_quick="--quick" in sys.argv))
    print(json.dumps(result, indent=1))
    print(render(result))


if __name__ == "__main__":
    main()
