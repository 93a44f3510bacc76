"""`eventbunker edge`: the production edge, one process for each of `server.workers`, under the supervisor.

Redis and the store run elsewhere, and so may the drains. Also holds what `workers.dev` shares: the
listening socket and the edge's role. Next: `workers.edge`, which runs in each of these processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import structlog

from app.logs import configure_logging
from app.settings import Settings
from workers.child import FINISH, Child, Role, die_with_parent
from workers.probe import http_ok
from workers.supervisor import StartFailed, Supervisor

EDGE_STAGE = 4
STOP_MARGIN_SECONDS = 5.0  # for the lifespan's end, after the requests in flight
SETTLE_SECONDS = 0.2  # handshakes under way end in this time, and what they bring has been accepted
LEAVE_MARGIN_SECONDS = 2.0  # an edge that nobody tells to finish does so by itself, but not before us

# Of an answer in the kernel that is not on its way yet; connections inherit it. Without a bound it is
# megabytes, and until a third of them is gone a client that takes 50 KB a second seems to take nothing.
UNSENT_BYTES = 128 * 1024
_SO_ATTACH_FILTER = 26
_TCP_FLAGS_AT, _SYN = 13, 2
# Classic BPF, run on each segment that reaches the listening socket: does it ask for a new connection?
_NO_SYN = (
    (0x30, 0, 0, _TCP_FLAGS_AT),  # load the byte
    (0x45, 0, 1, _SYN),  # is the bit set?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFF_FFFF),  # pass
)

log = structlog.get_logger()


class ListenError(Exception):
    """The address cannot be listened on; the message says what to change."""


def listen(host: str, port: int, backlog: int, *, how: str, address: str = "server.host") -> socket.socket:
    """An open listening socket; port 0 takes any free one. `how` and `address`: what sets the port and the
    host, for the message.

    Errors: ListenError.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        opened = socket.create_server((host, port), family=family, backlog=backlog)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        return opened
    except OSError as error:
        advice = f"choose another port with {how}, or stop what uses this one"
        if (
            error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) or (error.errno or 0) < 0
        ):  # below 0: no name
            advice = f"{address} in deploy.toml must be an address of this machine, or a name of one"
        raise ListenError(f"cannot listen on {host}:{port} ({error.strerror}): {advice}") from error


@contextlib.contextmanager
def edge_sockets(
    settings: Settings, host: str, port: int, *, how: str, address: str = "server.host"
) -> Iterator[list[socket.socket]]:
    """What edges inherit: a listening socket, and one for UDP where there is HTTP/3. Errors: ListenError."""
    with contextlib.ExitStack() as stack:
        backlog = settings.server.backlog
        opened = [stack.enter_context(listen(host, port, backlog, how=how, address=address))]
        if settings.server.quic_port:
            opened.append(stack.enter_context(_bind_udp(host, settings.server.quic_port)))
        yield opened


def _bind_udp(host: str, port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        raise ListenError(
            f"cannot listen on {host}:{port}/udp ({error.strerror}): "
            "choose another [server] quic_port in deploy.toml, or stop what uses this one"
        ) from error
    return opened


def turn_away(listener: socket.socket) -> None:
    """Take no further connection; those whose handshake has begun still come.

    A socket that is closed resets what waits in its queue, at 500 connections a second surely one, whose
    request a balancer must not repeat. Who is turned away has sent nothing: it asks again, finds the port
    closed (the kernel within a second, a balancer at its time-out for connecting), and goes elsewhere.
    """
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
    with contextlib.suppress(OSError):  # a kernel without it: the few of this moment are reset
        listener.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_NO_SYN), ctypes.addressof(program))
        )


def url_of(listener: socket.socket, *, tls: bool) -> str:
    """The url under which this machine reaches the edge."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def process(role: str, *arguments: str) -> tuple[str, ...]:
    """The argv of one of our own roles. -P: a directory named `app` where we are started is not ours."""
    return (sys.executable, "-P", "-m", "workers.process", role, *arguments)


def child_environment(settings: Settings, *, config: Path, metrics: Path) -> dict[str, str]:
    """What every child is told beside what the supervisor itself was told."""
    return {
        "DEPLOY_CONFIG": str(config.absolute()),
        "DEPLOY_ENV": settings.environment,
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
    }


def edge_roles(
    settings: Settings,
    sockets: list[socket.socket],
    environment: Mapping[str, str],
    *inherited: int,
    leave_seconds: float = 0.0,
) -> list[Role]:
    """One role for each edge process; `inherited` descriptors are passed on beside the sockets'.

    `leave_seconds`: how long it serves on after SIGTERM; 0 where no load balancer need notice.
    """
    host, port = sockets[0].getsockname()[:2]
    descriptors = [one.fileno() for one in sockets]
    tls = bool(settings.server.certfile)
    metrics = Path(environment["PROMETHEUS_MULTIPROC_DIR"])

    async def ready() -> bool:
        return await http_ok({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port, "/livez", tls=tls)  # noqa: S104

    role = Role(
        name="edge",
        argv=process("edge", str(leave_seconds), *map(str, descriptors)),
        environment=environment,
        ready=ready,
        stop_signal=FINISH,
        stop_seconds=settings.server.graceful_timeout + STOP_MARGIN_SECONDS,
        pass_fds=(*descriptors, *inherited),
        on_exit=lambda pid: forget_gauges(metrics, pid),
    )
    return [role] * settings.server.workers


def forget_gauges(metrics: Path, pid: int) -> None:
    """Drop what a dead process said of its present; its counters stay counted."""
    for path in metrics.glob(f"gauge_live*_{pid}.db"):
        path.unlink(missing_ok=True)


def run_edge(settings: Settings, *, config: Path, with_parent: bool = False) -> int:
    """Serve `server.host`:`server.port` until SIGTERM or SIGINT. Returns the exit code."""
    configure_logging("supervisor")
    if with_parent:
        die_with_parent(signal.SIGTERM)
    for name, value in (("REDIS_URL", settings.redis_url), ("CLICKHOUSE_URL", settings.clickhouse_url)):
        if not value:
            log.error(
                f"{name} is not set: `eventbunker edge` starts no Redis and no store; `eventbunker dev` does"
            )
            return 2
    try:
        return asyncio.run(_run(settings, config))
    except (ListenError, StartFailed) as error:
        log.error(str(error))
        return 1


async def _run(settings: Settings, config: Path) -> int:
    server = settings.server
    with (
        tempfile.TemporaryDirectory(prefix="eventbunker-metrics-") as metrics,
        edge_sockets(settings, server.host, server.port, how="[server] port in deploy.toml") as sockets,
    ):
        listener = sockets[0]
        environment = child_environment(settings, config=config, metrics=Path(metrics))
        async with Supervisor() as supervisor:
            supervisor.before_stop(listener.close)
            delay = server.shutdown_delay
            leave_seconds = delay + LEAVE_MARGIN_SECONDS if delay else 0.0
            roles = edge_roles(settings, sockets, environment, leave_seconds=leave_seconds)
            edges = supervisor.launch(EDGE_STAGE, *roles)
            await supervisor.wait_ready(*edges)
            if not supervisor.stop_requested.is_set():
                log.info("serving", url=url_of(listener, tls=bool(server.certfile)), processes=server.workers)
            await supervisor.stop_requested.wait()
            if delay:
                await _take_leave(supervisor, edges, listener, delay)
    return 0


async def _take_leave(
    supervisor: Supervisor, edges: list[Child], listener: socket.socket, delay: float
) -> None:
    """Serve on until load balancers send nothing any more. The supervisor's stop then ends the edges."""
    for edge in edges:
        edge.take_leave()
    await supervisor.pause(delay)
    turn_away(listener)
    await asyncio.sleep(SETTLE_SECONDS)
