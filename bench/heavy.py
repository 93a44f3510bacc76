"""Clients that ask heavy queries without a pause, as a process of its own: theirs are not the bench's costs.

    python -m bench.heavy        how many in CLIENTS, the keys of their projects in KEYS, as JSON; SIGTERM ends it

Beside the one who looks for events they would hold its interpreter, and what they wait would be told as freshness.
One line of JSON on stdout: the milliseconds of each answer, and why others were refused.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import Popen
from types import TracebackType
from typing import Any

from bench import mixed
from bench.context import Bench
from bench.process import wait_until
from tests.client import Client
from tests.service import ROOT

CLIENTS = 10  # of which one asks for much
START_SECONDS = 30.0
END_SECONDS = 60.0  # a query has ten, and waits as long for its turn
# Twelve computations of two fields, for each of 12 event names; every quantile is exact.
QUERY: dict[str, Any] = {
    "time_period": mixed.PERIOD,
    "group_by": ["event_name"],
    "computations": [
        {"function": function, "field_name": name, "as": f"{function}_{index}"}
        for index, name in enumerate(("example_number_field", "order.amount"))
        for function in ("sum", "median", "p95", "p99", "stddev", "count_distinct")
    ],
    "limit": 10_000,
}
# The same for each of 400 sites too: an answer of 2 MB, which the edge decodes and renders beside its posts.
LARGE_QUERY = QUERY | {"group_by": ["example_string_field", "event_name"]}


class Heavy:
    """That process, while the context lasts, again and again; in all `times` in ms and what was `refused`.

    `clients`: one asks for little, of more the first asks for much.
    """

    def __init__(self, bench: Bench, projects: Sequence[Client], clients: int) -> None:
        self._bench = bench
        self._clients = clients
        self._keys = json.dumps([dict(project.keys) for project in projects])
        self._log: Path
        self._process: Popen[bytes]
        self.times: list[float] = []
        self.refused: list[str] = []

    def __enter__(self) -> Heavy:
        environ = {"KEYS": self._keys, "CLIENTS": str(self._clients), "PYTHONPATH": str(ROOT)}
        self._log = self._bench.directory("heavy") / "log"
        argv = [sys.executable, "-m", "bench.heavy"]
        self._process = self._bench.keeper.start(argv, log=self._log, env=environ)
        wait_until(lambda: "asking" in self._log.read_text(), START_SECONDS, "the heavy queries", self._log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._process.terminate()
            self._process.wait(END_SECONDS + 1)
        finally:
            self._bench.keeper.kill(self._process)
        if kind is None:
            told = json.loads(self._log.read_text().splitlines()[-1])
            self.times += told["times"]
            self.refused += told["refused"]


class Asking(threading.Thread):
    """One of the clients."""

    def __init__(self, keys: Mapping[str, str], query: dict[str, Any], end: threading.Event) -> None:
        super().__init__(daemon=True)
        self._client = Client(dict(keys))
        self._query = query
        self._end = end
        self.times: list[float] = []
        self.refused: list[str] = []

    def run(self) -> None:
        while not self._end.is_set():
            at = time.monotonic()
            answer = self._client.ask(**self._query)
            if answer.status_code == 200:
                self.times.append((time.monotonic() - at) * 1000)
            else:
                self.refused.append(answer.text[:200])


def main() -> None:
    """Ask until SIGTERM."""
    projects = json.loads(os.environ["KEYS"])
    end = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: end.set())
    more = int(os.environ["CLIENTS"]) - 1
    queries = [LARGE_QUERY if more else QUERY, *[QUERY] * more]
    clients = [Asking(projects[i % len(projects)], query, end) for i, query in enumerate(queries)]
    for client in clients:
        client.start()
    print("asking", flush=True)
    while not end.wait(1.0):  # a handler runs between two waits
        pass
    deadline = time.monotonic() + END_SECONDS
    for client in clients:
        client.join(max(0.0, deadline - time.monotonic()))
    told = {
        name: [each for client in clients for each in getattr(client, name)] for name in ("times", "refused")
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
