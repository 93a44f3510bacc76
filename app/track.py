"""POST /post: body, key, validation, append, answer: a straight line. The hot path.

A raw ASGI endpoint inside Starlette's router: Starlette's Request and Response would cost more than all
that is done here. After a 200 the event is in Redis as durably as `durability` says; what happens to it
then is `workers.drain`. A client that sends `?ack=stored` waits for that too (`app.watermark`).

The usual event needs nothing that would have to be waited for, but to be kept: its body, its key and its
names are here. `begin` takes it without a task; all else goes the same way as a coroutine, which may wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine

import structlog
from starlette.types import Receive, Scope, Send

from app import event_problems, ledger, metrics
from app.append import Appender
from app.context import ContextReader
from app.errors import ApiError, Kind, invalid_body
from app.event import BrokenRule, Event, read_event
from app.grant import Grant, KeyType
from app.http import (
    WRITE_KEY,
    Headers,
    Reply,
    answer_bug,
    answer_error,
    error_response,
    headers,
    query_values,
    request_id,
    send_json,
    while_connected,
    write_key,
)
from app.idempotency_key import choose_event_id
from app.inflate import GZIP_MAGIC, read_inflated
from app.names import KnownNames, refusals
from app.rate_limit import RateLimits
from app.registry import Registry
from app.settings import Settings
from app.stream import choose_partition, encode_request
from app.watermark import QUEUED, STORED, Settled, Watermark

ROUTE = "/post"

log = structlog.get_logger()


class Track:
    """The endpoint. One instance serves a process."""

    def __init__(
        self, registry: Registry, appenders: list[Appender], watermark: Watermark, settings: Settings
    ) -> None:
        self._registry = registry
        self._watermark = watermark
        self.limits = RateLimits()
        self._appenders = appenders
        self._max_event_bytes = settings.limits.max_event_bytes
        self._context = ContextReader(settings)
        self._accepted = metrics.Accepted(ROUTE)

    def begin(self, scope: Scope, received: bytes | bytearray, reply: Reply) -> bool:
        """As `app.gate.Gate.begin`: is it a usual event? Then it is on its way."""
        began = time.perf_counter()
        found = headers(scope)
        secret = found.get(WRITE_KEY)
        if secret is None or scope["query_string"] or len(received) > self._max_event_bytes:
            return False
        body = bytes(received)  # no copy of what came in one piece
        if b"content-encoding" in found or body.startswith(GZIP_MAGIC):
            return False
        grant = self._registry.cached(secret.decode("latin-1"), KeyType.WRITE)
        if grant is None:
            return False
        names = self._registry.names.known(grant.project_id)
        if names is None:
            return False
        try:
            event = read_event(body)
            event_id = choose_event_id(scope, event.event_id)
        except (BrokenRule, ApiError):
            return False
        if not _has_places(names, event):
            return False
        self._registry.names.touch(grant.project_id, event.event_name, event.field_paths)
        recorded = time.time_ns() // 1_000_000
        waiting = _Sender(scope, began, recorded, reply, self._accepted)
        try:
            self.limits.take(grant)
            number, request = self._encode(scope, grant, event, event_id, body=body, recorded=recorded)
            self._appenders[number].submit(request, ledger.bucket(grant.project_id, recorded), waiting)
        except ApiError as error:
            asyncio.get_running_loop().call_soon(waiting.set_exception, error)
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        try:
            identity, recorded, settled = await self._track(scope, receive)
        except ApiError as error:
            _count_refusal(error)
            response = await answer_error(error, scope, receive)
            await response(scope, receive, send)
            return
        status, state = 200, b""
        if settled is not None and settled is not STORED:
            status, state = 202, b',"state":"%b"' % settled.state.encode()
        await send_json(send, status, *_answer(identity, recorded, state))
        if status == 200:
            self._accepted.add(time.perf_counter() - began)
        else:
            metrics.REQUESTS.labels(ROUTE, str(status)).inc()
            metrics.REQUEST_SECONDS.labels(ROUTE).observe(time.perf_counter() - began)
            metrics.EVENTS_ACCEPTED.inc()

    async def _track(self, scope: Scope, receive: Receive) -> tuple[str, int, Settled | None]:
        """Everything between the request's head and its answer: request id, time recorded, the wait's end."""
        secret = write_key(scope)
        grant = self._registry.cached(secret, KeyType.WRITE) if secret else None
        if grant is None:
            grant = await self._registry.authorise(secret, KeyType.WRITE)
        waits = _waits(scope)
        self.limits.take(grant)
        body = await read_inflated(scope, receive, self._max_event_bytes)
        names = self._registry.names.known(grant.project_id)
        if names is None:
            names = await self._registry.names.load(grant.project_id)
        event = _validate(body)
        event_id = choose_event_id(scope, event.event_id)
        if _has_places(names, event):
            self._registry.names.touch(grant.project_id, event.event_name, event.field_paths)
        else:
            await self._admit(grant, event)
        identity = request_id(scope)
        recorded = time.time_ns() // 1_000_000
        number, request = self._encode(scope, grant, event, event_id, body=body, recorded=recorded)
        entry = await self._appenders[number].append(request, ledger.bucket(grant.project_id, recorded))
        if not waits:
            return identity, recorded, None
        wait = self._watermark.wait(number, entry, f"{identity}00000001", grant.project_id)
        settled = await self._settled(receive, wait)
        return identity, recorded, settled

    def _encode(
        self, scope: Scope, grant: Grant, event: Event, event_id: str, *, body: bytes, recorded: int
    ) -> tuple[int, bytes]:
        """The partition that the event belongs to, and what the stream carries."""
        identity = request_id(scope)
        of_header = event_id if event.event_id is None else ""
        request = encode_request(
            bytes.fromhex(identity),
            recorded,
            grant.project_id,
            grant.customer_identifier or "",
            context=self._context.read(scope, grant),
            events=((1, body, of_header),),
        )
        return choose_partition(len(self._appenders), grant.project_id, event_id, identity), request

    async def _settled(self, receive: Receive, wait: Coroutine[object, object, Settled]) -> Settled:
        """The end of the wait. Errors: ApiError 422 for a dead letter."""
        try:
            settled = await while_connected(receive, wait)
        except ApiError:  # the client has left, and with it whoever would read the answer
            return QUEUED
        if settled.state == "dead":
            raise ApiError(
                Kind.DEAD_LETTER,
                f"It was kept, but cannot be stored, and is now a dead letter: {settled.reason}",
            )
        return settled

    async def _admit(self, grant: Grant, event: Event) -> None:
        """Count new names against the project's caps; asks Redis."""
        refused = await self._registry.names.admit(grant.project_id, (event.event_name,), event.field_paths)
        problems = refusals(refused, refused.event_names, refused.field_paths)
        if problems:
            raise invalid_body(problems)


class _Sender:
    """Who sent an event that `Track.begin` took, and waits for it to be kept. See `app.append.Waiting`."""

    __slots__ = ("_accepted", "_began", "_recorded", "_reply", "_scope")

    def __init__(
        self, scope: Scope, began: float, recorded: int, reply: Reply, accepted: metrics.Accepted
    ) -> None:
        self._scope = scope
        self._began = began
        self._recorded = recorded
        self._reply = reply
        self._accepted = accepted

    def done(self) -> bool:
        """Never before one of the others was called."""
        return False

    def set_result(self, _entry_id: str, /) -> None:
        """It is kept."""
        self._reply(200, *_answer(request_id(self._scope), self._recorded))
        self._accepted.add(time.perf_counter() - self._began)

    def set_exception(self, error: Exception, /) -> None:
        """It is not, or nobody knows."""
        if isinstance(error, ApiError):
            _count_refusal(error)
            response = error_response(error, self._scope)
        else:
            metrics.REQUESTS.labels(ROUTE, "500").inc()
            response = answer_bug(error, self._scope)
        self._reply(response.status_code, bytes(response.body), response.raw_headers)


def _answer(identity: str, recorded: int, state: bytes = b"") -> tuple[bytes, Headers]:
    """Body and headers for an event that was kept."""
    body = b'{"unique_req_id":"%b00000001","time_recorded":%d%b}' % (identity.encode(), recorded, state)
    return body, [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]


def _count_refusal(error: ApiError) -> None:
    metrics.REQUESTS.labels(ROUTE, str(error.row.status)).inc()
    metrics.EVENTS_REJECTED.labels(error.row.code).inc()


def _has_places(names: KnownNames, event: Event) -> bool:
    """Are all of its names known?"""
    return event.event_name in names.event_names and names.field_paths.issuperset(event.field_paths)


def _waits(scope: Scope) -> bool:
    """Does the client want to wait until queries see its event? Errors: ApiError 400."""
    values = query_values(scope, "ack")
    if not values or values == ["stored"]:
        return bool(values)
    raise ApiError(
        Kind.INVALID_REQUEST,
        "The only value of ack is `stored`; leave ack out to be answered when the event is on disk.",
    )


def _validate(body: bytes) -> Event:
    try:
        return read_event(body)
    except BrokenRule:
        problems = event_problems.find(body)
    if not problems:  # the two readers disagree, which is our bug; the event was not kept
        log.error("a refused body has no problem that can be named", bytes=len(body))
        raise ApiError(Kind.INTERNAL, "The event could not be checked. This is a bug; nothing was kept.")
    raise invalid_body(problems)
