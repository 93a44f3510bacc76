"""What is compared, each started as it is run for real: our edge, the floor under the same server, the peer.

A subject is fresh for every round: its process, its Redis, its files.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec

from app.stream import Keys, split_group
from bench.context import Bench, Skip
from bench.process import children, free_port, listens, wait_until
from bench.redis_own import OwnRedis

ENGINES = ("hypercorn", "uvicorn")
ROOT = Path(__file__).parent.parent
PEER = Path(__file__).with_name("peer")
EVENTBUNKER = (sys.executable, "-P", "-c", "from workers.cli import main; main()")
START_SECONDS = 30.0
INSTALL_SECONDS = 180.0
COMMAND_SECONDS = 60.0
SETTLE_SECONDS = 30.0
PAGE = 50  # entries at once; each may hold a group of a thousand events
PEER_STREAM = "events"


@dataclass
class Running:
    """A subject that answers at `url`. `pid` is the process that serves, and only serves."""

    url: str
    key: str
    pid: int
    redis: OwnRedis | None = None
    project_id: str = ""  # ours; "" for the peer

    def take(self) -> int | None:
        """How many events its Redis holds, which are then removed; None for one that keeps nothing."""
        if self.redis is None:
            return None
        stream = Keys("events", 0).entries if self.project_id else PEER_STREAM
        self._settle(stream)
        count, after = 0, "-"
        while True:
            page = cast(
                "list[tuple[bytes, dict[bytes, bytes]]]",
                self.redis.client.xrange(stream, min=after, count=PAGE),
            )
            count += sum(self._events(fields) for _, fields in page)
            if len(page) < PAGE:
                break
            after = f"({page[-1][0].decode()}"
        self.redis.client.xtrim(stream, maxlen=0, approximate=False)
        return count

    def _settle(self, stream: str) -> None:
        """Wait until what was under way when wrk hung up has arrived: it belongs to this run, not the next."""
        unchanged, length = 0, -1
        end = time.monotonic() + SETTLE_SECONDS
        while unchanged < 3 and time.monotonic() < end:
            time.sleep(0.1)
            before, length = length, int(self.redis.client.xlen(stream)) if self.redis else 0
            unchanged = unchanged + 1 if length == before else 0

    def _events(self, fields: dict[bytes, bytes]) -> int:
        """In one entry. The edge's own canaries do not count."""
        if self.project_id:
            return sum(record.project_id == self.project_id for record in split_group(fields[b"r"]))
        if b"event" in fields:
            return 1
        return len(msgspec.json.decode(fields[b"events"], type=list[msgspec.Raw]))


@dataclass(frozen=True)
class Subject:
    """`kind`: ours, floor, guarded (the floor behind our edge's protections) or peer."""

    kind: str
    engine: str = ""
    durability: str = ""

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.kind, self.engine, self.durability)))

    @contextmanager
    def run(self, bench: Bench) -> Iterator[Running]:
        """Start it; ended afterwards, with its files."""
        directory = bench.directory(self.name.replace(" ", "-"))
        own = OwnRedis(bench, directory, self.durability) if self.durability else None
        start = {"ours": _ours, "floor": _floor, "guarded": _guarded, "peer": _peer}[self.kind]
        try:
            with start(bench, directory, self, own) as running:
                yield running
        finally:
            if own is not None:
                own.stop()
            shutil.rmtree(directory, ignore_errors=True)


def deploy_toml(engine: str, port: int, extra: str = "", durability: str = "always") -> str:
    """The defaults, but for the engine and where it listens. One process; stopped without ceremony."""
    named = f'engine = "{engine}"\n' if has_engine() else ""
    return (
        f'{extra}\n[server]\nhost = "127.0.0.1"\nport = {port}\nshutdown_delay = 0\n{named}'
        f'[[queues.producers]]\ndurability = "{durability}"\n'
    )


@cache
def has_engine() -> bool:
    """Does this version of the product let one choose? Older ones are Hypercorn."""
    return "engine" in json.dumps(_schema()["$defs"]["Server"]["properties"])


@cache
def _schema() -> Any:
    return json.loads((ROOT / "deploy.schema.json").read_text())


def engines() -> list[str]:
    """Those that this checkout can run."""
    return list(ENGINES) if has_engine() else [ENGINES[0]]


@contextmanager
def _ours(bench: Bench, directory: Path, subject: Subject, own: OwnRedis | None) -> Iterator[Running]:
    if own is None:
        raise ValueError("our edge needs a Redis")
    text = deploy_toml(subject.engine, port := free_port(), durability=subject.durability)
    with _edge(bench, directory, text, port, own.url) as pid:
        key, project_id = create_key(directory, own.url, f"http://127.0.0.1:{port}")
        yield Running(f"http://127.0.0.1:{port}", key, pid, own, project_id)


@contextmanager
def _guarded(bench: Bench, directory: Path, subject: Subject, own: OwnRedis | None) -> Iterator[Running]:
    text = deploy_toml(subject.engine, port := free_port(), 'main = "bench.floor:app"')
    with _edge(bench, directory, text, port, "unix:///nowhere") as pid:
        yield Running(f"http://127.0.0.1:{port}", "none", pid)


@contextmanager
def _edge(bench: Bench, directory: Path, text: str, port: int, redis_url: str) -> Iterator[int]:
    """`eventbunker edge`: supervisor and edge, as in production; the pid of the edge."""
    (directory / "deploy.toml").write_text(text)
    log = directory / "edge.log"
    process = bench.keeper.start(
        [*EVENTBUNKER, "-c", str(directory / "deploy.toml"), "edge"],
        log=log,
        on=bench.server_core,
        env={**_environment(redis_url), "TMPDIR": str(directory)},  # what a killed one leaves goes with it
    )
    try:
        wait_until(lambda: process.poll() is not None or listens(port), START_SECONDS, "the edge", log)
        wait_until(lambda: "serving" in log.read_text(), START_SECONDS, "the edge's `serving`", log)
        (pid,) = children(process.pid)
        yield pid
    finally:
        bench.keeper.stop(process)


def _environment(redis_url: str) -> dict[str, str]:
    return {
        "REDIS_URL": redis_url,
        "CLICKHOUSE_URL": f"http://127.0.0.1:{free_port()}",  # nobody: nothing drains here, nothing asks
        "CLICKHOUSE_PASSWORD": "none",
        "PYTHONPATH": str(ROOT),
    }


def create_key(directory: Path, redis_url: str, url: str) -> tuple[str, str]:
    """A write key and its project, made as an operator makes them."""
    command = [
        *(*EVENTBUNKER, "-c", str(directory / "deploy.toml")),
        *("account", "create", "--name", "bench", "--json"),
    ]
    environ = {**os.environ, **_environment(redis_url)}
    done = subprocess.run(command, env=environ, capture_output=True, timeout=COMMAND_SECONDS, check=True)
    account = json.loads(done.stdout)

    def manage(call: str, key: str, **request: str) -> dict[str, str]:
        headers = {"x-eventbunker-apikey": key}
        answer = httpx.post(f"{url}/v1/manage/{call}", json=request, headers=headers, timeout=30)
        answer.raise_for_status()
        return cast("dict[str, str]", answer.json())

    project = manage(
        "project/create", account["account_master_key"], account_id=account["account_id"], name="b"
    )
    made = manage(
        "apikey/create", project["master_api_key"], project_id=project["project_id"], key_type="WRITE"
    )
    return made["api_key"], project["project_id"]


@contextmanager
def _floor(bench: Bench, directory: Path, subject: Subject, own: OwnRedis | None) -> Iterator[Running]:
    port, log = free_port(), directory / "floor.log"
    command = [sys.executable, "-m", "bench.floor", subject.engine, str(port)]
    process = bench.keeper.start(command, log=log, on=bench.server_core, env={"PYTHONPATH": str(ROOT)})
    try:
        wait_until(lambda: listens(port), START_SECONDS, "the floor", log)
        yield Running(f"http://127.0.0.1:{port}", "none", process.pid)
    finally:
        bench.keeper.stop(process)


@contextmanager
def _peer(bench: Bench, directory: Path, subject: Subject, own: OwnRedis | None) -> Iterator[Running]:
    if own is None:
        raise ValueError("the peer needs a Redis")
    port, log, key = free_port(), directory / "peer.log", "eb_w_bench"
    process = bench.keeper.start(
        ["node", str(PEER / "server.js")],
        log=log,
        on=bench.server_core,
        env={"PORT": str(port), "REDIS_SOCKET": str(own.socket), "KEY": key, "NODE_ENV": "production"},
    )
    try:
        wait_until(lambda: listens(port), START_SECONDS, "the peer", log)
        yield Running(f"http://127.0.0.1:{port}", key, process.pid, own)
    finally:
        bench.keeper.stop(process)


def install_peer() -> None:
    """Its packages, beside it, where git does not look. Errors: Skip."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise Skip(f"{program} is not installed: apt-get install nodejs npm (Node 20 or newer)")
    installed = PEER / "node_modules" / ".package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= (PEER / "package.json").stat().st_mtime:
        return
    command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent"]
    try:
        subprocess.run(command, cwd=PEER, timeout=INSTALL_SECONDS, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        raise Skip(f"npm could not install the peer's packages: {error}") from error
