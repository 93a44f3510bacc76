"""POST /post: body, key, validation, append, answer: a straight line. The hot path.

A raw ASGI endpoint inside Starlette's router: Starlette's Request and Response would cost more than all
that is done here. After a 200 the event is in Redis as durably as `durability` says; what happens to it
then is `workers.drain`. A client that sends `?ack=stored` waits for that too (`app.watermark`).
"""

from __future__ import annotations

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
    answer_error,
    query_values,
    request_id,
    while_connected,
    write_key,
)
from app.idempotency_key import choose_event_id
from app.inflate import read_inflated
from app.names import refusals
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        try:
            identity, recorded, settled = await self._track(scope, receive)
        except ApiError as error:
            metrics.REQUESTS.labels(ROUTE, str(error.row.status)).inc()
            metrics.EVENTS_REJECTED.labels(error.row.code).inc()
            response = await answer_error(error, scope, receive)
            await response(scope, receive, send)
            return
        status, state = 200, b""
        if settled is not None and settled is not STORED:
            status, state = 202, b',"state":"%b"' % settled.state.encode()
        body = b'{"unique_req_id":"%b00000001","time_recorded":%d%b}' % (identity.encode(), recorded, state)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
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
        if event.event_name in names.event_names and names.field_paths.issuperset(event.field_paths):
            self._registry.names.touch(grant.project_id, event.event_name, event.field_paths)
        else:
            await self._admit(grant, event)
        identity = request_id(scope)
        recorded = time.time_ns() // 1_000_000
        of_header = event_id if event.event_id is None else ""
        request = encode_request(
            bytes.fromhex(identity),
            recorded,
            grant.project_id,
            grant.customer_identifier or "",
            context=self._context.read(scope, grant),
            events=((1, body, of_header),),
        )
        number = choose_partition(len(self._appenders), grant.project_id, event_id, identity)
        entry = await self._appenders[number].append(request, ledger.bucket(grant.project_id, recorded))
        if not waits:
            return identity, recorded, None
        wait = self._watermark.wait(number, entry, f"{identity}00000001", grant.project_id)
        settled = await self._settled(receive, wait)
        return identity, recorded, settled

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
