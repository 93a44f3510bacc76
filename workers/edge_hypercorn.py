"""The edge under Hypercorn, the default: HTTP/1.1, HTTP/2, and HTTP/3. Next: `workers.edge_connections`."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import cast

import hypercorn.asyncio.run
from hypercorn.asyncio import serve as serve_hypercorn
from hypercorn.config import Config
from hypercorn.typing import ASGIFramework
from hypercorn.utils import LifespanFailureError
from starlette.types import ASGIApp

from app.main import Draining
from app.settings import Settings
from workers.edge_app import AppDidNotStart
from workers.edge_connections import install
from workers.edge_protocols import EdgeConfig


async def serve(
    app: ASGIApp,
    settings: Settings,
    descriptors: tuple[int, ...],
    draining: Draining,
    finish: asyncio.Event,
) -> None:
    """Serve on open sockets, TCP and perhaps UDP for HTTP/3, until `finish`, and what is in flight then.

    Errors: AppDidNotStart.
    """
    install()
    config = server_config(settings, descriptors[0], draining)
    if descriptors[1:]:
        _add_http3(config, descriptors[1])
    try:
        await serve_hypercorn(cast(ASGIFramework, app), config, shutdown_trigger=finish.wait)
    except LifespanFailureError as error:
        raise AppDidNotStart(str(error)) from error


def _add_http3(config: Config, descriptor: int) -> None:
    from workers.edge_quic import Http3  # noqa: PLC0415  (the extra `http3`)

    hypercorn.asyncio.run.UDPServer = Http3  # type: ignore[attr-defined, assignment]
    config.quic_bind = [f"fd://{descriptor}"]  # and every answer over TCP names it in Alt-Svc


def server_config(settings: Settings, descriptor: int, draining: Draining) -> Config:
    """Hypercorn's configuration for one process on an open listening socket."""
    server = settings.server
    config = EdgeConfig(settings, draining)
    config.bind = [f"fd://{descriptor}"]
    config.backlog = server.backlog
    config.keep_alive_timeout = server.keep_alive_timeout
    # Over HTTP/2 Hypercorn would cut whatever is under way; ours end between requests.
    config.keep_alive_max_requests = sys.maxsize
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
