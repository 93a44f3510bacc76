"""`eventbunker dev`, which is `make run-edge`: the whole service on one machine, from nothing.

Decides what is started, in which order, and what each part is told:

    Redis, store (at once)  ->  schema, keys, edge (as soon as what they need answers)  ->  drain

REDIS_URL and CLICKHOUSE_URL replace the embedded parts. Keeping things alive is `workers.supervisor`'s,
the directory `workers.state`'s, the developer's keys `workers.dev_keys`'s.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import socket
import time
from pathlib import Path
from urllib.parse import quote

import msgspec
import structlog

from app.logs import configure_logging
from app.settings import Settings
from workers import redis_server
from workers.child import Child, Role, die_with_parent
from workers.edges import (
    EDGE_STAGE,
    ListenError,
    child_environment,
    edge_roles,
    edge_sockets,
    process,
    url_of,
)
from workers.external import ExternalError, check_redis, check_store
from workers.probe import http_ok, redis_ok
from workers.redis_server import RedisMissing
from workers.state import State, StateError
from workers.supervisor import StartFailed, Supervisor

REDIS_STAGE, STORE_STAGE, MIGRATE_STAGE, DRAIN_STAGE = 0, 1, 2, 3
REDIS_STOP_SECONDS = 10.0
STORE_STOP_SECONDS = 15.0
DRAIN_STOP_SECONDS = 15.0
APPENDFSYNC = {"always": "always", "everysec": "everysec", "memory": "no"}

log = structlog.get_logger()


def run_dev(
    settings: Settings,
    *,
    config: Path,
    port: int | None = None,
    state: Path | None = None,
    with_parent: bool = False,
) -> int:
    """Run until SIGINT or SIGTERM. Returns the exit code; 1 when something prevents the start.

    `port` and `state` replace `[dev] port` and `persist_to`; `with_parent` ends it when its parent dies.
    """
    configure_logging("supervisor")
    os.umask(0o077)  # whatever Redis, the store and metrics write is this user's alone
    if with_parent:
        die_with_parent(signal.SIGTERM)
    dev = settings.dev
    try:
        place = State(state or Path(dev.persist_to))
        place.lock()
        port = dev.port if port is None else port
        with edge_sockets(settings, dev.ip, port, how="PORT=…", address="dev.ip") as sockets:
            return asyncio.run(Dev(settings, config, place, sockets).run())
    except (StateError, ListenError, RedisMissing, ExternalError, StartFailed) as error:
        log.error(str(error))
        return 1


class Dev:
    """One start of the service in one locked state directory."""

    def __init__(self, settings: Settings, config: Path, state: State, sockets: list[socket.socket]) -> None:
        self._state = state
        self._sockets = sockets
        self._url = url_of(sockets[0], tls=bool(settings.server.certfile))
        self._own_redis = not settings.redis_url
        self._own_store = not settings.clickhouse_url
        self._socket = state.redis_socket()
        self._store_port = state.store_port() if self._own_store else 0
        is_chosen = settings.spool.path or os.environ.get("SPOOL_PATH")
        self._spool = settings.spool_path if is_chosen else state.path / "spool"
        self._settings = self._complete(settings)
        self._environment = child_environment(settings, config=config, metrics=state.fresh_metrics())
        self._environment |= {
            "REDIS_URL": self._settings.redis_url,
            "CLICKHOUSE_URL": self._settings.clickhouse_url,
            "CLICKHOUSE_PASSWORD": self._settings.secret("CLICKHOUSE_PASSWORD"),
            "SPOOL_PATH": str(self._spool),
            "DRAIN_SLOT": f"dev-{state.secret('drain.slot')}",  # the next start takes over its lease at once
        }

    async def run(self) -> int:
        """Start everything, say so, and wait for the wish to stop."""
        began = time.monotonic()
        async with Supervisor() as supervisor:
            supervisor.before_stop(self._sockets[0].close)
            await self._start(supervisor)
            if not supervisor.stop_requested.is_set():
                log.info("serving", url=self._url, seconds=round(time.monotonic() - began, 2))
            await supervisor.stop_requested.wait()
        self._socket.unlink(missing_ok=True)  # a Redis that was killed leaves it
        return 0

    async def _start(self, supervisor: Supervisor) -> None:
        redis = supervisor.launch(REDIS_STAGE, *([self._redis()] if self._own_redis else []))
        store = supervisor.launch(STORE_STAGE, *([self._store()] if self._own_store else []))
        # Imported while the two start: both clients together take as long as Redis does.
        from workers import dev_keys  # noqa: PLC0415

        if not self._own_redis:
            await check_redis(self._settings)
        if not self._own_store:
            await check_store(self._settings)
        await supervisor.wait_ready(*redis)
        if supervisor.stop_requested.is_set():
            return
        if self._own_redis:
            from workers import shards  # noqa: PLC0415

            await shards.adapt(self._settings)
        inherited = self._state.lock_descriptor
        edges = supervisor.launch(
            EDGE_STAGE, *edge_roles(self._settings, self._sockets, self._environment, inherited)
        )
        keys = asyncio.create_task(dev_keys.ensure(self._settings, self._state, self._url))
        await supervisor.unless_stopped(self._drained_soon(supervisor, store))
        await supervisor.wait_ready(*edges)
        if supervisor.stop_requested.is_set():
            keys.cancel()
            return
        dev_keys.announce(await keys, self._state)

    async def _drained_soon(self, supervisor: Supervisor, store: list[Child]) -> None:
        """Schema, then drain: it would only log errors before the tables are there."""
        await supervisor.wait_ready(*store)
        await supervisor.run_once(MIGRATE_STAGE, self._ours("migrate"))
        if not supervisor.stop_requested.is_set():
            await supervisor.wait_ready(
                *supervisor.launch(DRAIN_STAGE, self._ours("drain", stop_seconds=DRAIN_STOP_SECONDS))
            )

    def _complete(self, settings: Settings) -> Settings:
        """The settings with the urls and the token of the parts that we start."""
        secrets = dict(settings.secrets)
        redis_url, clickhouse_url = settings.redis_url, settings.clickhouse_url
        if self._own_redis:
            redis_url = f"unix://{quote(str(self._socket))}"
            secrets["REDIS_PASSWORD"] = ""
        if self._own_store:
            clickhouse_url = f"http://127.0.0.1:{self._store_port}"
            token = secrets["CLICKHOUSE_PASSWORD"] = self._state.secret("store.token")
            self._state.write_json(
                self._state.path / "store.json",
                {"url": clickhouse_url, "user": settings.store.username, "password": token},
            )
        return msgspec.structs.replace(
            settings, redis_url=redis_url, clickhouse_url=clickhouse_url, secrets=secrets
        )

    def _redis(self) -> Role:
        binary = redis_server.find()
        appendfsync = APPENDFSYNC[self._settings.producer.durability]
        conf = self._state.redis / "redis.conf"
        self._state.write(
            conf, redis_server.configuration(self._state.redis, self._socket, appendfsync=appendfsync)
        )

        async def ready() -> bool:
            return await redis_ok(self._socket)

        return Role(
            name="redis",
            argv=(str(binary.path), str(conf)),
            ready=ready,
            stop_seconds=REDIS_STOP_SECONDS,
            death_signal=signal.SIGTERM,  # so that it also ends the child that rewrites its file
            pass_fds=(self._state.lock_descriptor,),
            socket=self._socket,
            log_path=self._state.redis / "redis.log",
        )

    def _store(self) -> Role:
        path = self._settings.store.path or str(self._state.store)

        async def ready() -> bool:
            return await http_ok("127.0.0.1", self._store_port, "/ping")

        role = self._ours("store", str(self._store_port), path, stop_seconds=STORE_STOP_SECONDS)
        return dataclasses.replace(role, ready=ready)

    def _ours(self, name: str, *arguments: str, stop_seconds: float = 10.0) -> Role:
        return Role(
            name=name,
            argv=process(name, *arguments),
            environment=self._environment,
            stop_seconds=stop_seconds,
            pass_fds=(self._state.lock_descriptor,),
        )
