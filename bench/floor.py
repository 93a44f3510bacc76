"""What a server costs when the app does nothing: the body is read, and the answer is always the same.

`app` also runs as `main` of a deploy.toml: then it is the floor under our edge's own protections.
Run as a program it is the floor under the server as it comes: `python -m bench.floor ENGINE PORT`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvloop

Message = MutableMapping[str, Any]
ANSWER = b"{}"
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
# The settings of our own edge (deploy.toml's defaults, workers.edge), where the server has such a setting.
KEEP_ALIVE_SECONDS, BACKLOG, REQUESTS_PER_CONNECTION = 75, 2048, 10_000


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """An ASGI app."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    more = True
    while more:
        more = (await receive()).get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


def serve_hypercorn(port: int) -> None:
    from hypercorn.asyncio import serve  # noqa: PLC0415
    from hypercorn.config import Config  # noqa: PLC0415

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.backlog = BACKLOG
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.keep_alive_max_requests = REQUESTS_PER_CONNECTION
    config.include_server_header = False
    config.accesslog = None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(app, config))  # type: ignore[arg-type]


def serve_uvicorn(port: int) -> None:
    import uvicorn  # noqa: PLC0415

    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    {"hypercorn": serve_hypercorn, "uvicorn": serve_uvicorn}[sys.argv[1]](int(sys.argv[2]))
