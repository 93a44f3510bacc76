"""The edge under uvicorn: HTTP/1.1 only, 1.7 times as fast; for edges behind a load balancer.

Of uvicorn this uses the protocol (`workers.edge_uvicorn_protocol`), on uvloop and httptools; not its process
manager and not its signal handlers, since both are the supervisor's and `workers.edge`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from email.utils import formatdate
from typing import Any

import structlog
from starlette.types import ASGIApp, Message
from uvicorn.config import Config

from app.main import Draining
from app.settings import Settings
from workers.edge_app import AppDidNotStart
from workers.edge_uvicorn_protocol import Connection, Edge

LIFESPAN_SECONDS = 60.0  # to start, and again to end
LAST_WORDS_SECONDS = 0.05  # a request that was sent before the port was closed is read in this time

log = structlog.get_logger()


async def serve(
    app: ASGIApp,
    settings: Settings,
    descriptors: tuple[int, ...],
    draining: Draining,
    finish: asyncio.Event,
) -> None:
    """Serve on an open listening socket until `finish`, and what is in flight then.

    Errors: AppDidNotStart.
    """
    lifespan = _Lifespan(app)
    await lifespan.start()
    try:
        edge = Edge(settings, draining)
        config = _config(app)
        loop = asyncio.get_running_loop()
        listener = socket.socket(fileno=descriptors[0])
        server = await loop.create_server(
            lambda: Connection(config, edge, lifespan.state, loop),
            sock=listener,
            backlog=settings.server.backlog,
            ssl=_tls(settings),
            ssl_handshake_timeout=settings.server.read_timeout if settings.server.certfile else None,
        )
        clock = asyncio.create_task(_keep_date(edge))
        await finish.wait()
        server.close()
        await asyncio.sleep(LAST_WORDS_SECONDS)
        await edge.finish(settings.server.graceful_timeout)
        clock.cancel()
    finally:
        await lifespan.end()


def _config(app: ASGIApp) -> Config:
    """What uvicorn's protocol asks for; everything that an edge decides by itself is off."""
    config = Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        workers=1,
        forwarded_allow_ips="",
    )
    config.load()
    return config


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if not settings.server.certfile:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(settings.server.certfile, settings.server.keyfile)
    return context


async def _keep_date(edge: Edge) -> None:
    """The date header of every answer, made once a second."""
    while True:
        edge.date_line = b"date: %b\r\n" % formatdate(usegmt=True).encode()
        await asyncio.sleep(1.0 - time.time() % 1.0)


class _Lifespan:
    """The app's start and end, as ASGI has them."""

    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._from_app: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Errors: AppDidNotStart."""
        self._task = asyncio.create_task(self._run())
        try:
            answer = await self._ask("startup")
        except TimeoutError:
            self._task.cancel()
            raise AppDidNotStart(f"it took longer than {LIFESPAN_SECONDS:g} seconds") from None
        if answer["type"] == "lifespan.startup.failed":
            await asyncio.wait({self._task})
            raise AppDidNotStart(str(answer.get("message", "")))

    async def end(self) -> None:
        """Never raises: what could not be ended in order is left to the end of the process."""
        if self._task is None or self._task.done():  # an app without a lifespan
            return
        with contextlib.suppress(TimeoutError):
            answer = await self._ask("shutdown")
            if answer["type"] == "lifespan.shutdown.failed":
                log.error("the app did not end in order", reason=str(answer.get("message", ""))[-2000:])
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=1)

    async def _ask(self, what: str) -> Message:
        self._to_app.put_nowait({"type": f"lifespan.{what}"})
        async with asyncio.timeout(LIFESPAN_SECONDS):
            return await self._from_app.get()

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._to_app.get, self._from_app.put)
        except Exception as error:
            # It has said what it had to say; or it knows no lifespan, which ASGI lets it tell in this way.
            log.debug("the app's lifespan ended", error=repr(error)[:200])
        self._from_app.put_nowait({"type": "lifespan.ended"})
