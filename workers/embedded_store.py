"""The embedded store's process: opens the data directory, serves ClickHouse's HTTP interface on loopback.

Owns: start, readiness (`/ping` answers once the engine is open), signals and the order of the stop. A
`kill -9` at any line is safe; a graceful stop only saves the recovery. Next: `workers.embedded_http`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import hypercorn.asyncio.tcp_server
import msgspec
import structlog
import uvloop
from hypercorn.asyncio import serve
from hypercorn.config import Config
from hypercorn.typing import ASGIFramework

from app.logs import configure_logging
from workers.embedded_config import Limits
from workers.embedded_engine import Engine
from workers.embedded_http import Interface
from workers.embedded_library import EngineError

if TYPE_CHECKING:
    from app.settings import Settings

HOST = "127.0.0.1"  # never anything else: the token is the only guard
MAX_URI_BYTES = 1024 * 1024
STOP_SECONDS = 10.0
END_QUERIES_SECONDS = 1.0  # of the stop: what still reads by then is ended
PURGE_SECONDS = 30.0  # how often freed memory is given back to the system
NICE_SECONDS = 0.25  # how often questions that run are made as nice as they are to be by now
PIECE_BYTES = 256 * 1024  # of a block, from its socket at once: what uvloop reads, four times Hypercorn's own
KEPT_BYTES = 4 * 1024 * 1024  # of memory that is free, for the next pieces
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # https://man7.org/linux/man-pages/man3/mallopt.3.html
EXIT_USAGE, EXIT_UNAVAILABLE = 2, 75

log = structlog.get_logger()


def main(settings: Settings, *, port: int, path: Path) -> int:
    """Serve `path` on 127.0.0.1:`port` until SIGTERM or SIGINT; returns the exit code.

    The token comes from CLICKHOUSE_PASSWORD. 75: the directory or the port cannot be opened, most
    often because another process has it. 2: no token.
    """
    limits = Limits(max_memory_bytes=settings.store.max_memory_bytes)
    return run(limits, username=settings.store.username, port=port, path=path)


def run(limits: Limits, *, username: str, port: int, path: Path) -> int:
    """`main`, without a deploy.toml."""
    configure_logging("store")
    _keep_memory()
    token = os.environ.get("CLICKHOUSE_PASSWORD", "")
    if not token:
        log.error("store_not_started", reason="CLICKHOUSE_PASSWORD is not set; it is the store's token")
        return EXIT_USAGE
    try:
        engine = Engine(path, limits)
        listener = socket.create_server((HOST, port), backlog=256)
    except (EngineError, OSError) as error:
        log.error("store_not_started", path=str(path), port=port, reason=str(error))
        return EXIT_UNAVAILABLE
    interface = Interface(engine, limits, username=username, token=token)
    log.info("store_started", url=f"http://{HOST}:{listener.getsockname()[1]}", path=str(path))
    uvloop.run(_serve(interface, engine, listener.detach()))
    if engine.running(inserts=True) or engine.running(inserts=False):
        # Threads of the engine cannot be stopped from outside, and they would keep the process.
        log.warning("store_stopped", reason="statements still ran")
        _flush()
        os._exit(0)
    engine.close()
    log.info("store_stopped")
    return 0


async def _serve(interface: Interface, engine: Engine, descriptor: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    chores = [
        asyncio.create_task(chore)
        for chore in (_purge(engine), _keep_nice(engine), _end_queries(engine, stop))
    ]
    hypercorn.asyncio.tcp_server.MAX_RECV = PIECE_BYTES
    config = Config()
    config.bind = [f"fd://{descriptor}"]
    config.h11_max_incomplete_size = MAX_URI_BYTES
    config.graceful_timeout = STOP_SECONDS
    config.keep_alive_timeout = 75.0
    config.keep_alive_max_requests = sys.maxsize
    config.include_server_header = False
    config.errorlog = logging.getLogger("hypercorn.error")
    try:
        await serve(cast(ASGIFramework, interface.app), config, shutdown_trigger=stop.wait)
    finally:
        for chore in chores:
            chore.cancel()


async def _end_queries(engine: Engine, stop: asyncio.Event) -> None:
    """After the stop: let short queries finish, then end the rest. Inserts have the whole of the time."""
    await stop.wait()
    end = time.monotonic() + STOP_SECONDS
    await asyncio.sleep(END_QUERIES_SECONDS)
    while time.monotonic() < end:
        for query_id in engine.running(inserts=False):
            await asyncio.to_thread(engine.end, query_id)
        await asyncio.sleep(END_QUERIES_SECONDS)


async def _purge(engine: Engine) -> None:
    while True:
        await asyncio.sleep(PURGE_SECONDS)
        with contextlib.suppress(EngineError, RuntimeError):
            await asyncio.to_thread(engine.ask, "SYSTEM JEMALLOC PURGE")


async def _keep_nice(engine: Engine) -> None:
    while True:
        await asyncio.sleep(NICE_SECONDS)
        with contextlib.suppress(EngineError, RuntimeError):  # or no thread can be had now, so later
            await asyncio.to_thread(engine.niceness.keep, engine.ask)


def _keep_memory() -> None:
    """The pieces of a block come and go: given back to the system each would be cleared by it once more."""
    with contextlib.suppress(AttributeError, OSError):  # not every C library can be told
        tell = ctypes.CDLL(None).mallopt
        tell(M_MMAP_THRESHOLD, KEPT_BYTES)
        tell(M_TRIM_THRESHOLD, KEPT_BYTES)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers.embedded_store")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--limits", default="{}", help="JSON of workers.embedded_config.Limits")
    parser.add_argument("--username", default="default")
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()
    sys.exit(
        run(
            msgspec.json.decode(given.limits, type=Limits),
            username=given.username,
            port=given.port,
            path=given.path,
        )
    )
