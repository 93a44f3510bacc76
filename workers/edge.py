"""One edge process: the ASGI app of `main` in deploy.toml under Hypercorn, on a socket it inherits.

The supervisor listens, the edges accept: while one is restarted, connections wait in the socket's queue
instead of being refused. Leaving has two steps, so that a load balancer has the time to notice: after
SIGTERM everything is served as before, except that `/readyz` is 503 and every answer ends its connection;
after FINISH, or `leave_seconds` later, what is in flight is finished. Knows the server, not the routes.
Next: `app.main`.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import signal
import ssl
from collections.abc import Callable
from typing import Any, cast

import structlog
import uvloop
from hypercorn.asyncio import serve
from hypercorn.config import Config
from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from hypercorn.utils import LifespanFailureError

from app.logs import configure_logging
from app.main import Draining
from app.settings import Settings
from workers.child import FINISH
from workers.edge_connections import install
from workers.edge_protocols import EdgeConfig

REQUESTS_PER_CONNECTION = 10_000  # then it is closed, and a load balancer can spread anew

log = structlog.get_logger()


class EdgeError(Exception):
    """The edge cannot be built from its settings; the message names the setting."""


def find_main(settings: Settings) -> tuple[Callable[..., object], set[str]]:
    """What `main` names, and the names of its parameters. Errors: EdgeError."""
    module, _, name = settings.main.partition(":")
    try:
        target = getattr(importlib.import_module(module), name)
        parameters = set(inspect.signature(target).parameters)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise EdgeError(f'main = "{settings.main}" cannot be imported: {error}') from error
    if not {"scope", "receive", "send"} <= parameters and "settings" not in parameters:
        raise EdgeError(f'main = "{settings.main}" is neither an ASGI app nor a factory that takes settings')
    return target, parameters


def load_app(settings: Settings, draining: Draining) -> ASGIFramework:
    """The app that `main = "module:name"` names: an ASGI app, or a factory that takes the settings.

    Errors: EdgeError.
    """
    target, parameters = find_main(settings)
    if {"scope", "receive", "send"} <= parameters:
        return cast(ASGIFramework, target)
    given = {"draining": draining} if "draining" in parameters else {}
    return cast(ASGIFramework, target(settings, **given))


def ending_connections(app: ASGIFramework, draining: Draining) -> ASGIFramework:
    """`app`, whose HTTP/1.1 answers end their connections while the edge is leaving.

    A kept connection that a balancer still believes in when it is closed costs the request it sends then.
    """

    async def wrapped(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        async def send_and_end(message: ASGISendEvent) -> None:
            # Looked at now, not when the request came: it may have been in flight at the signal.
            if draining.is_set and message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        is_old = scope["type"] == "http" and scope["http_version"].startswith("1")
        await app(scope, receive, send_and_end if is_old else send)

    return wrapped


def server_config(settings: Settings, descriptor: int) -> Config:
    """Hypercorn's configuration for one process on an open listening socket."""
    server = settings.server
    config = EdgeConfig(settings)
    config.bind = [f"fd://{descriptor}"]
    config.backlog = server.backlog
    config.keep_alive_timeout = server.keep_alive_timeout
    config.keep_alive_max_requests = REQUESTS_PER_CONNECTION
    config.graceful_timeout = server.graceful_timeout
    # Hypercorn counts an idle connection as a slow read: a shorter value would cut kept connections off
    # under the load balancer's hands. Heads and bodies have deadlines of their own.
    config.read_timeout = cast(int, max(server.read_timeout, server.keep_alive_timeout))
    config.ssl_handshake_timeout = server.read_timeout
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")  # a logger of its own would write past ours
    config.certfile = server.certfile or None
    config.keyfile = server.keyfile or None
    return config


def main(settings: Settings, *, descriptor: int, leave_seconds: float) -> int:
    """Serve until SIGTERM or SIGINT and `leave_seconds` longer, then finish. Returns the exit code."""
    configure_logging("edge")
    install()
    draining = Draining()
    try:
        app = load_app(settings, draining)
    except EdgeError as error:
        log.error("edge not started", reason=str(error))
        return 2
    factory = uvloop.new_event_loop if settings.server.worker_class == "uvloop" else asyncio.new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(_serve(app, server_config(settings, descriptor), draining, leave_seconds))
    except LifespanFailureError as error:
        *trace, reason = str(error).rstrip("'\n").splitlines() or [""]
        if "LayoutError" not in reason:
            log.error("the app did not start", trace=trace)
        log.error("edge not started", reason=reason.partition(": ")[2] or reason)
        return 2
    return 0


async def _serve(app: ASGIFramework, config: Config, draining: Draining, leave_seconds: float) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def leave(seconds: float) -> None:
        draining.is_set = True
        loop.call_later(seconds, stop.set)

    loop.set_exception_handler(_ignore_handshakes)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave, leave_seconds)
    loop.add_signal_handler(FINISH, leave, 0)
    await serve(ending_connections(app, draining), config, shutdown_trigger=stop.wait)


def _ignore_handshakes(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Anybody can fail a TLS handshake; that is no error of ours."""
    if not isinstance(context.get("exception"), ssl.SSLError):
        loop.default_exception_handler(context)
