"""POST /batch: many events in one request, a verdict for each. One bad event never rejects its neighbours.

The line is that of `app.track`: key, body, validation, names, append, answer; each step is taken for all
events together. The forms of a body are `app.batch_body`'s, the rules `app.event`'s (by column:
`app.event_columns`), what is told of the rejected ones `app.batch_verdict`'s, and
`app.batch_keep` brings the good ones to the appenders. An array of good events that look alike is read and
kept as it came: nobody cuts it into events before the drain does. Ten thousand events take some
tens of milliseconds, so other requests are let through every few hundred events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from operator import itemgetter

import msgspec
from starlette.types import Receive, Scope, Send

from app import metrics
from app.append import Appender
from app.batch_body import NDJSON, Whole, split
from app.batch_keep import Keeper, Sender
from app.batch_verdict import Rejections
from app.context import ContextReader
from app.errors import ApiError, Kind
from app.event import MAX_EVENT_ID_CHARACTERS
from app.event_columns import Body, Good, read_events, read_singly, read_whole
from app.grant import Grant, KeyType
from app.http import answer_error, header, query_values, request_id, send_json, write_key
from app.idempotency_key import choose_event_id
from app.inflate import MOST_COPIES, read_inflated
from app.names import KnownNames, refusals
from app.rate_limit import RateLimits
from app.registry import Registry
from app.room import Room
from app.settings import Settings

ROUTE = "/batch"
WHOLE_BYTES = 64 * 1024  # read in one turn: 4 ms at most, a megabyte took 40
CHUNK_EVENTS, FEWEST_EVENTS = 400, 50  # judged without a pause: half a millisecond,
CHUNK_SECONDS = 0.002  # or fewer of them, where they take longer
TOUCHED_AT_ONCE = 500
MAX_KEY_CHARACTERS = MAX_EVENT_ID_CHARACTERS - len(":9999")
ADMISSIONS = 5  # of names, each of which is told what finds no place; others take places meanwhile

_encode = msgspec.json.Encoder().encode


class Batch:
    """The endpoint. One instance serves a process."""

    def __init__(
        self, registry: Registry, appenders: list[Appender], limits: RateLimits, settings: Settings
    ) -> None:
        self._registry = registry
        self._keeper = Keeper(appenders)
        self._limits = limits
        self._context = ContextReader(settings)
        self._max_event_bytes = settings.limits.max_event_bytes
        self._max_whole_bytes = min(WHOLE_BYTES, self._max_event_bytes)
        self._max_bytes = settings.limits.max_batch_bytes
        self._max_events = settings.limits.max_batch_events
        self._room = Room(max(settings.limits.max_pending_bytes, MOST_COPIES * self._max_bytes))
        self._accepted = metrics.Accepted(ROUTE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        try:
            body, accepted = await self._answer(scope, receive)
        except ApiError as error:
            error.with_traceback(None)  # its frames hold the body, whose room is already others'
            metrics.REQUESTS.labels(ROUTE, str(error.row.status)).inc()
            metrics.EVENTS_REJECTED.labels(error.row.code).inc()
            response = await answer_error(error, scope, receive)
            await response(scope, receive, send)
            return
        await send_json(
            send,
            200,
            body,
            [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (b"cache-control", b"no-store"),
            ],
        )
        self._accepted.add(time.perf_counter() - began, accepted)

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[bytes, int]:
        """The answer's body, and how many events were accepted."""
        secret = write_key(scope)
        grant = self._registry.cached(secret, KeyType.WRITE) if secret else None
        if grant is None:
            grant = await self._registry.authorise(secret, KeyType.WRITE)
        if query_values(scope, "ack"):
            raise ApiError(
                Kind.INVALID_REQUEST,
                "A batch is answered when its events are on disk; leave ack out, and ask /v1/receipt/<id>.",
            )
        key = _idempotency_key(scope)
        self._limits.take(grant, 0)
        with self._room.share() as share:
            body = await read_inflated(scope, receive, self._max_bytes, share.grow)
            share.hold(2 * len(body))  # the events' bytes once more, until they are kept
            return await self._track(scope, grant, key, body)

    async def _track(self, scope: Scope, grant: Grant, key: str, body: bytes) -> tuple[bytes, int]:
        """From the body to the answer's."""
        of_header = (header(scope, b"content-type") or b"").partition(b";")[0].strip().lower()
        content_type = of_header.decode("latin-1")
        all_good = self._read_whole(body, content_type)
        cut: list[Body] = []
        if all_good is None:
            cut += map(bytes, await split(body, content_type, self._max_events))
        bodies = cut if all_good is None else Whole(body, len(all_good.positions))
        self._limits.take(grant, len(bodies))
        rejections = Rejections(bodies)
        names = self._registry.names.known(grant.project_id)
        if names is None:
            names = await self._registry.names.load(grant.project_id)
        groups = await self._judge(cut, rejections) if all_good is None else [all_good]
        groups = await self._admit(grant.project_id, groups, names, bodies, rejections)
        if rejections.number == len(bodies):
            raise rejections.nothing_accepted()
        sender = Sender(
            grant,
            request_id(scope),
            time.time_ns() // 1_000_000,
            self._context.read(scope, grant),
            key,
        )
        failure = await self._keeper.keep(sender, groups, bodies, rejections)
        accepted = len(bodies) - rejections.number
        if failure is not None and not accepted:
            raise failure
        answer = _encode(
            {
                "accepted": accepted,
                "rejected": rejections.number,
                "time_recorded": sender.time_recorded,
                "request_id": sender.request_id,
                "errors": await rejections.explain(),
            }
        )
        return answer, accepted

    def _read_whole(self, body: bytes, content_type: str) -> Good | None:
        """The short way of what is mostly sent: an array of good events that look alike, none too large.

        None for anything else, which is cut into events and judged.
        """
        if body[:1] != b"[" or len(body) > self._max_whole_bytes or content_type in NDJSON:
            return None
        good = read_whole(body)
        return None if good is None or len(good.positions) > self._max_events else good

    async def _judge(self, bodies: list[Body], rejections: Rejections) -> list[Good]:
        """The good events by group, with positions in `bodies`."""
        groups: list[Good] = []
        start, size = 0, CHUNK_EVENTS
        while start < len(bodies):
            began = time.perf_counter()
            positions = list(range(start, min(start + size, len(bodies))))
            some = bodies[start : start + size]
            if max(map(len, some)) > self._max_event_bytes:
                rejections.oversized(
                    [at for at in positions if len(bodies[at]) > self._max_event_bytes], self._max_event_bytes
                )
                positions = [at for at in positions if len(bodies[at]) <= self._max_event_bytes]
                some = [bodies[at] for at in positions]
            good, refused = read_events(some, positions)
            groups += good
            rejections.broken(refused)
            start += size
            if start < len(bodies):
                if time.perf_counter() - began > CHUNK_SECONDS:  # odd ones, each of which is read for itself
                    size = max(FEWEST_EVENTS, size // 2)
                await asyncio.sleep(0)
        return groups

    async def _admit(
        self,
        project_id: str,
        groups: list[Good],
        known: KnownNames,
        bodies: Sequence[Body],
        rejections: Rejections,
    ) -> list[Good]:
        """Count new names against the project's caps, all at once; without the events that find no place."""
        for _ in range(ADMISSIONS):
            event_names, paths = _new_names(groups, known)
            if not event_names and not paths:
                break
            refused = await self._registry.names.admit(project_id, event_names, paths)
            if not refused:
                return groups
            left: list[Good] = []
            for group in groups:
                if not refusals(refused, group.event_names, group.field_paths):
                    left.append(group)
                    continue
                await asyncio.sleep(0)
                for one in read_singly([bodies[at] for at in group.positions], group.positions):
                    if problems := refusals(refused, one.event_names, one.field_paths):
                        rejections.refused(one.positions, problems)
                    else:
                        left.append(one)
            groups = left
        else:
            raise ApiError(
                Kind.UNAVAILABLE, "Names are admitted too fast; nothing was kept.", retry_after_seconds=1
            )
        for number, group in enumerate(groups, 1):
            if number % TOUCHED_AT_ONCE == 0:
                await asyncio.sleep(0)
            for name in set(group.event_names):
                self._registry.names.touch(project_id, name, group.field_paths)
        return groups


def _new_names(groups: list[Good], known: KnownNames) -> tuple[list[str], list[str]]:
    """Those that are not known, in the order of the batch: if places are few, its first events get them."""
    named = [
        (at, name)
        for group in groups
        if not known.event_names.issuperset(group.event_names)
        for at, name in zip(group.positions, group.event_names, strict=True)
        if name not in known.event_names
    ]
    paths = [
        (group.positions[0], path)
        for group in groups
        if not known.field_paths.issuperset(group.field_paths)
        for path in group.field_paths
        if path not in known.field_paths
    ]
    named.sort()
    paths.sort(key=itemgetter(0))
    return list(dict.fromkeys(name for _, name in named)), list(dict.fromkeys(path for _, path in paths))


def _idempotency_key(scope: Scope) -> str:
    """The header's key, "" without one. Errors: ApiError 400."""
    key = choose_event_id(scope, None)
    if len(key) > MAX_KEY_CHARACTERS:
        raise ApiError(
            Kind.INVALID_IDEMPOTENCY_KEY,
            f"Idempotency-Key: on a batch it may have at most {MAX_KEY_CHARACTERS} characters, since each "
            f"event is known by it and its index; it has {len(key)}.",
        )
    return key
