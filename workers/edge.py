"""One edge process: the ASGI app of `main` in deploy.toml under `[server] engine`, on a socket it inherits.

The supervisor listens, the edges accept: while one is restarted, connections wait in the socket's queue
instead of being refused. Leaving has two steps, so that a load balancer has the time to notice: after
SIGTERM everything is served as before, except that `/readyz` is 503 and every answer ends its connection;
after FINISH, or `leave_seconds` later, what is in flight is finished. Knows the servers, not the routes.
Next: `workers.edge_hypercorn` or `workers.edge_uvicorn`, then `app.main`.
"""

from __future__ import annotations

import asyncio
import signal
import ssl
from typing import Any

import structlog
import uvloop
from starlette.types import ASGIApp

from app.logs import configure_logging
from app.main import Draining
from app.settings import Settings
from workers.child import FINISH
from workers.edge_app import AppDidNotStart, EdgeError, check_engine, load_app

log = structlog.get_logger()


def main(settings: Settings, *, descriptors: tuple[int, ...], leave_seconds: float) -> int:
    """Serve until SIGTERM or SIGINT and `leave_seconds` longer, then finish. Returns the exit code.

    `descriptors`: of a listening socket, and of a UDP socket where there is HTTP/3.
    """
    configure_logging("edge")
    draining = Draining()
    try:
        check_engine(settings)
        app = load_app(settings, draining)
    except EdgeError as error:
        log.error("edge not started", reason=str(error))
        return 2
    factory = uvloop.new_event_loop if settings.server.worker_class == "uvloop" else asyncio.new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(_serve(app, settings, descriptors, draining, leave_seconds))
    except AppDidNotStart as error:
        if not error.is_known:
            log.error("the app did not start", trace=error.trace)
        log.error("edge not started", reason=str(error))
        return 2
    return 0


async def _serve(
    app: ASGIApp, settings: Settings, descriptors: tuple[int, ...], draining: Draining, leave_seconds: float
) -> None:
    # Each brings a parser of its own: only the chosen one is loaded.
    if settings.server.engine == "uvicorn":
        from workers.edge_uvicorn import serve  # noqa: PLC0415
    else:
        from workers.edge_hypercorn import serve  # noqa: PLC0415

    finish = asyncio.Event()
    loop = asyncio.get_running_loop()

    def leave(seconds: float) -> None:
        draining.is_set = True
        loop.call_later(seconds, finish.set)

    loop.set_exception_handler(_ignore_handshakes)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave, leave_seconds)
    loop.add_signal_handler(FINISH, leave, 0)
    await serve(app, settings, descriptors, draining, finish)


def _ignore_handshakes(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Anybody can fail a TLS handshake; that is no error of ours."""
    if not isinstance(context.get("exception"), ssl.SSLError):
        loop.default_exception_handler(context)
