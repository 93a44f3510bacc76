"""What runs under chaos: one Redis, one embedded store, two edges, two drains, each reached over a bad link.

This module is its supervisor: `tend` restarts whatever died by itself. Names of processes: `redis`, `store`,
`edge 0`, `drain 1`; of links: `edge 0 > redis`.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import redis

from app import redis_client, settings
from app.accounts import Accounts
from app.grant import KeyType
from app.stream import Keys, choose_partition
from tests import plain_http
from tests.chaos.clock import Clock, FakeTime
from tests.chaos.disk import Disk
from tests.chaos.link import Link, Links
from tests.chaos.process import Process
from tests.service import ROOT
from tests.store_fixture import free_port
from workers import redis_server

EDGES = DRAINS = SHARDS = 2
START_SECONDS = 60.0
TICK_SECONDS = 0.02
MIB = 1024 * 1024
DISK_BYTES = {"spool": 64 * MIB, "redis": 160 * MIB, "store": 512 * MIB}
SPOOL_GROUPS = re.compile(r"^eventbunker_spool_groups(?:\{[^}]*\})? (\S+)$", re.M)
TOKEN = "chaos-token"
# Shorter than the defaults where a fault would only last longer for it; the rules are the same.
DEPLOY = f"""
[limits]
append_timeout = 5
[[queues.producers]]
binding = "EVENTS"
queue = "events"
shards = {SHARDS}
[[queues.consumers]]
queue = "events"
lease_timeout = 2
retry_delay = 0.2
[[stores]]
binding = "WAREHOUSE"
engine = "embedded"
insert_timeout = 5
"""
SPOOL = """
[spool]
path = "{path}"
max_bytes = {max_bytes}
"""


class Topology:
    """A context: afterwards no process, no mount and no thread of it is left."""

    def __init__(self, directory: Path, *, no_mounts: str = "") -> None:
        self.directory = directory
        self.disks = {name: Disk(directory / name, size, no_mounts) for name, size in DISK_BYTES.items()}
        self.processes: dict[str, Process] = {}
        self.links: dict[str, Link] = {}
        self.clocks: dict[str, Clock | FakeTime] = {"redis": FakeTime(directory / "redis.clock")}
        self.edge_urls: list[str] = []
        self.project_id = self.write_key = self.query_key = ""
        self._links = Links()
        self._listeners: list[socket.socket] = []
        self._socket = directory / "redis.sock"
        self._store_port = free_port()
        self._config = directory / "deploy.toml"
        deploy = DEPLOY
        if "spool" in settings.Settings.__struct_fields__:
            deploy += SPOOL.format(path=self.disks["spool"].path, max_bytes=DISK_BYTES["spool"] // 4)
        self._config.write_text(deploy)

    def __enter__(self) -> Topology:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def link_control(self) -> Links:
        return self._links

    def edges(self) -> list[Process]:
        return [self.processes[f"edge {number}"] for number in range(EDGES)]

    def tend(self) -> None:
        """Start again what died by itself."""
        for process in self.processes.values():
            process.tend()

    def wait(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """`tests.waiting.until` that tends meanwhile. Errors: AssertionError."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{what} did not hold within {seconds} s"
            self.tend()
            time.sleep(TICK_SECONDS)

    def pass_time(self, seconds: float) -> None:
        """Let `seconds` go by."""
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() >= end, seconds + START_SECONDS, "time passing")

    def redis(self) -> redis.Redis:
        """A client that takes no detour; close it."""
        return redis.Redis.from_url(f"unix://{self._socket}", socket_timeout=5)

    def partitions(self) -> list[Keys]:
        """The names of each partition's keys."""
        return [Keys("events", number, "events-dead") for number in range(SHARDS)]

    def spooled(self) -> int:
        """Groups that wait in the edges' spools. Errors: httpx.TransportError."""
        texts = [plain_http.get(f"{url}/metrics", timeout=5.0).text for url in self.edge_urls]
        return sum(int(float(found)) for text in texts for found in SPOOL_GROUPS.findall(text))

    def partition_of(self, event_id: str) -> int:
        return choose_partition(SHARDS, self.project_id, event_id, "")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`python …` in this installation, over no link."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, **self._environ()},
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )

    def close(self) -> None:
        """SIGKILL to everything that is left, and the mounts away."""
        for process in self.processes.values():
            process.resume()
            process.kill()
        self._links.close()
        for listener in self._listeners:
            listener.close()
        for disk in self.disks.values():
            disk.unmount()

    def stop(self) -> list[str]:
        """SIGTERM in order; what did not end well."""
        order = [*self.edges(), *(self.processes[f"drain {n}"] for n in range(DRAINS))]
        order += [self.processes["store"], self.processes["redis"]]
        return [
            f"{p.name}: exit {code}" for p in order if (code := p.terminate()) not in (0, -signal.SIGTERM)
        ]

    def _start(self) -> None:
        conf = self.directory / "redis.conf"
        conf.write_text(
            redis_server.configuration(self.disks["redis"].path, self._socket, appendfsync="always")
        )
        clock = self.clocks["redis"]
        self._add("redis", [str(redis_server.find().path), str(conf)], dict(clock.environ))
        self._role("store", str(self._store_port), str(self.disks["store"].path / "data"))
        self.wait(self._redis_answers, START_SECONDS, "Redis")
        self.wait(lambda: ok(f"http://127.0.0.1:{self._store_port}/ping"), START_SECONDS, "the store")
        done = self.run("-m", "workers.process", "migrate")
        assert done.returncode == 0, done.stdout + done.stderr
        asyncio.run(self._create_keys())
        for number in range(EDGES):
            listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
            self._listeners.append(listener)
            self.edge_urls.append(f"http://127.0.0.1:{listener.getsockname()[1]}")
            self._linked(f"edge {number}", "0", str(listener.fileno()), pass_fds=(listener.fileno(),))
        for number in range(DRAINS):
            self._linked(f"drain {number}")
        urls = [f"{url}/readyz?strict" for url in self.edge_urls]
        self.wait(lambda: all(map(ok, urls)), START_SECONDS, " and ".join(urls))

    def _add(
        self, name: str, argv: list[str], environ: dict[str, str], pass_fds: tuple[int, ...] = ()
    ) -> None:
        own = self.directory / name.replace(" ", "-")
        metrics = own.with_suffix(".metrics")
        environ = {"PROMETHEUS_MULTIPROC_DIR": str(metrics), **environ}
        self.processes[name] = Process(
            name, argv, environ, own.with_suffix(".log"), pass_fds=pass_fds, metrics=metrics
        )
        self.processes[name].start()

    def _environ(self, redis_url: str = "", store_port: object = "") -> dict[str, str]:
        return {
            "DEPLOY_CONFIG": str(self._config),
            "REDIS_URL": redis_url or f"unix://{self._socket}",
            "CLICKHOUSE_URL": f"http://127.0.0.1:{store_port or self._store_port}",
            "CLICKHOUSE_PASSWORD": TOKEN,
        }

    def _role(
        self,
        name: str,
        *arguments: str,
        environ: dict[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        clock = self.clocks[name] = Clock(self.directory / f"{name.replace(' ', '-')}.clock")
        argv = [sys.executable, "-m", "tests.chaos.inside", name.partition(" ")[0], *arguments]
        self._add(name, argv, {**(environ or self._environ()), **clock.environ}, pass_fds)

    def _linked(self, name: str, *arguments: str, pass_fds: tuple[int, ...] = ()) -> None:
        """A role of ours that reaches Redis and the store over links of its own."""
        path = self.directory / f"{name.replace(' ', '-')}.redis"
        self.links[f"{name} > redis"], _ = self._links.open(self._socket, path)
        self.links[f"{name} > store"], port = self._links.open(self._store_port)
        environ = self._environ(f"unix://{path}", port)
        self._role(name, *arguments, environ=environ, pass_fds=pass_fds)

    async def _create_keys(self) -> None:
        client = redis_client.connect(settings.load(self._config, environ=self._environ()))
        try:
            accounts = Accounts(client)
            account = await accounts.create_account("chaos")
            project = await accounts.create_project(account.account_id, "chaos")
            self.project_id = project.project_id
            self.write_key = (await accounts.create_key(self.project_id, KeyType.WRITE)).api_key
            self.query_key = (await accounts.create_key(self.project_id, KeyType.QUERY)).api_key
        finally:
            await client.aclose()

    def _redis_answers(self) -> bool:
        try:
            with self.redis() as client:
                return bool(client.ping())
        except redis.exceptions.RedisError:
            return False


def ok(url: str) -> bool:
    """Does `url` answer 200?"""
    try:
        return plain_http.get(url, timeout=2.0).status_code == 200
    except httpx.TransportError:
        return False
