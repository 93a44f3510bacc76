"""The canary: an event every few seconds down the real path, looked for in the store, for ever.

What it proves of each partition: that an event which was tracked now is in the store soon (freshness), once,
with the bytes that were sent (correctness). It goes through the appender like any client's, in a project of
its own that no key can reach, and the drain treats it like any other. `workers.tidy` deletes old ones.

The clock of a canary stops while Redis or the store are away, and while this edge's spool holds events that
Redis has not got yet: others tell of that. One that is not found by then is late if it may still be queued,
and missing if it cannot be: then an acknowledged event is lost.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec
import structlog

from app import ledger, metrics
from app.append import Appender
from app.errors import ApiError
from app.partition import Freshness
from app.redis_client import UNREACHABLE
from app.store import Store, StoreError
from app.stream import Record, encode_record

PROJECT = "canary"  # ids of real projects begin with `prj_`
DUE_SECONDS = 30.0  # of a pipeline in which nothing is away: longer than any takeover
FIRST_LOOK_SECONDS = 0.05
LOOK_GROWTH = 1.25  # looks become rarer: what is measured is right to a quarter of itself
ASK_SECONDS = 5.0
RECOUNT_SECONDS = 60.0
WATCHED_SECONDS = 3600.0
MAX_WATCHED = 1000  # canaries that one process remembers; older ones are out of its sight
FRESH_SECONDS = 1.0
CLOCK_SLACK_MS = 60_000  # between our clock and Redis's
LATE, MISSING, DOUBLED, ALTERED = KINDS = ("late", "missing", "doubled", "altered")

log = structlog.get_logger()

# The times narrow it down to a few granules: it is asked all the time.
_FIND = (
    "SELECT lower(hex(unique_req_id)), count(), min(body), max(body) FROM events"
    " WHERE project_id = {project:String} AND event_name = {project:String}"
    " AND event_time >= fromUnixTimestamp64Milli({from:Int64})"
    " AND time_recorded BETWEEN fromUnixTimestamp64Milli({from:Int64})"
    " AND fromUnixTimestamp64Milli({to:Int64})"
    " AND customer_identifier = {sender:String} GROUP BY unique_req_id"
)


class Sent(msgspec.Struct):
    """One canary. `waited` are the seconds for which it was looked for in vain, nothing being away.

    `appended` is Redis's time of its entry, or a moment after that; None while it may be in the spool.
    """

    partition: int
    number: int
    identity: str
    recorded: int
    began: float
    appended: int | None = None
    waited: float = 0.0
    found: bool = False
    failure: str = ""


class Canary:
    """One for each edge process. `away` says what is known to be away; "" while nothing is."""

    def __init__(
        self,
        appenders: Sequence[Appender],
        store: Store,
        freshness: Freshness,
        away: Callable[[], str],
        interval_seconds: float,
    ) -> None:
        self._appenders = appenders
        self._store = store
        self._freshness = freshness
        self._away = away
        self._interval = interval_seconds
        self._sender = os.urandom(8).hex()  # of this process's life: others' are theirs to count
        self._number = 0
        self._watched: deque[Sent] = deque(maxlen=MAX_WATCHED)
        self._trouble = ""
        self._looked = time.monotonic()

    def problem(self) -> str:
        """What became of canaries that nothing can excuse."""
        failed = [one for one in self._watched if one.failure]
        kinds = [(kind, sum(one.failure == kind for one in failed)) for kind in KINDS]
        words = ", ".join(f"{count} {kind}" for kind, count in kinds if count)
        return f"{words} in the last hour, such as {failed[-1].identity}" if failed else ""

    def describe(self) -> str:
        """The newest canary that was found, or what keeps this one from looking."""
        if self._trouble:
            return f"waits: {self._trouble}"
        found = sum(one.found for one in self._watched)
        return f"{found} of {len(self._watched)} found"

    async def run(self) -> None:
        """Until cancelled. A bug in here must not end it, nor anything else."""
        recount = time.monotonic() + RECOUNT_SECONDS
        while True:
            end = time.monotonic() + self._interval
            try:
                await self._send()
                await self._find(end)
                if time.monotonic() > recount:
                    recount = time.monotonic() + RECOUNT_SECONDS
                    await self._look(list(self._watched))
            except Exception as error:
                log.error("the canary failed", error=type(error).__name__)
            await asyncio.sleep(max(0.0, end - time.monotonic()))

    async def _send(self) -> None:
        """One canary into each partition, all at once."""
        self._forget()
        self._number += 1
        await asyncio.gather(*(self._send_to(partition) for partition in range(len(self._appenders))))

    async def _send_to(self, partition: int) -> None:
        moment = time.time_ns() // 1_000_000
        identity = os.urandom(12)
        one = Sent(partition, self._number, f"{identity.hex()}00000001", moment, time.monotonic())
        record = Record(identity, 1, moment, PROJECT, self._sender, "", "", "", self._body(one).encode())
        try:
            bucket = ledger.bucket(PROJECT, moment)
            entry = await self._appenders[partition].append(encode_record(record), bucket)
        except ApiError as error:  # not kept, and said so; whoever sends events sees the same
            self._stumble("not_sent", error.detail)
            return
        if entry:
            one.appended = int(entry.partition("-")[0])
        self._watched.append(one)

    def _body(self, one: Sent) -> str:
        """Made anew for the comparison. It holds what is easily damaged on the way."""
        content = {
            "event_name": PROJECT,
            "partition": one.partition,
            "number": one.number,
            "id": one.identity,
            "text": 'Ünïcödé 🐤 " \\ \t',
            "big": 2**63 - 1,
            "nothing": None,
        }
        return msgspec.json.encode(content).decode()

    def _forget(self) -> None:
        """Those that were sent more than an hour ago; the deque itself forgets what is too many."""
        while self._watched and time.monotonic() - self._watched[0].began > WATCHED_SECONDS:
            self._watched.popleft()

    async def _find(self, end: float) -> None:
        """Look for those that were not found yet, until all are or the interval is over."""
        pause = FIRST_LOOK_SECONDS
        while True:
            waiting = [one for one in self._watched if not one.found]
            if not waiting:
                return
            await self._look(waiting)
            if time.monotonic() + pause > end:
                return
            await asyncio.sleep(pause)
            pause *= LOOK_GROWTH

    async def _look(self, these: Sequence[Sent]) -> None:
        """Ask the store for `these`, and judge each of them."""
        if not these:
            return
        question: dict[str, str | int] = {
            "project": PROJECT,
            "sender": self._sender,
            "from": min(one.recorded for one in these),
            "to": max(one.recorded for one in these),
        }
        try:
            # Before the store is asked: what is not queued now must be there then.
            fresh = await self._fresh(these)
            result = await self._store.ask(_FIND, question, timeout_seconds=ASK_SECONDS)
        except UNREACHABLE:
            self._stumble("not_asked", "Redis does not answer")
            return
        except StoreError as error:
            self._stumble("not_asked", f"the store does not answer ({type(error).__name__})")
            return
        rows = {str(identity): (int(str(count)), bodies) for identity, count, *bodies in result.rows}
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        self._trouble = self._away()
        for one in these:
            count, bodies = rows.get(one.identity, (0, []))
            if count:
                self._judge_found(one, count, bodies, now)
                continue
            if not self._trouble:
                one.waited += min(passed, now - one.began)
                if one.appended is None:  # the spool is empty: by now it is in the stream
                    one.appended = time.time_ns() // 1_000_000 + CLOCK_SLACK_MS
            if one.found:
                self._fail(one, MISSING)
            elif one.waited > DUE_SECONDS and fresh:  # else it became due just now: the next look will tell
                is_stored = one.appended is not None and one.appended <= fresh
                self._fail(one, MISSING if is_stored else LATE)
        self._tell_oldest(now)

    def _judge_found(self, one: Sent, count: int, bodies: list[object], now: float) -> None:
        if not one.found:
            one.found = True
            metrics.CANARIES.inc()
            metrics.CANARY_SECONDS.labels(str(one.partition)).observe(now - one.began)
            metrics.CANARY_LAST_SECONDS.labels(str(one.partition)).set(now - one.began)
        if count > 1:
            self._fail(one, DOUBLED)
        elif bodies != [self._body(one)] * 2:
            self._fail(one, ALTERED)
        elif one.failure:
            log.warning(f"a canary event that was {one.failure} is there", unique_req_id=one.identity)
            one.failure = ""

    async def _fresh(self, these: Sequence[Sent]) -> int:
        """Up to which moment all that was appended is stored; 0 while nobody is due. Errors: UNREACHABLE."""
        if not any(one.waited > DUE_SECONDS and not one.found for one in these):
            return 0
        async with asyncio.timeout(FRESH_SECONDS):
            return await self._freshness.fresh_as_of()

    def _tell_oldest(self, now: float) -> None:
        """While one is waited for, the gauge shows how long: the last one that was found is old news."""
        for one in self._watched:
            if not one.found and now - one.began > self._interval:
                metrics.CANARY_LAST_SECONDS.labels(str(one.partition)).set(now - one.began)

    def _fail(self, one: Sent, kind: str) -> None:
        """Said once for each canary."""
        if one.failure == kind:
            return
        one.failure = kind
        metrics.CANARY_FAILURES.labels(kind).inc()
        log.error(f"a canary event is {kind}", unique_req_id=one.identity, partition=one.partition)

    def _stumble(self, kind: str, reason: str) -> None:
        """Something is away, which others tell of: counted, and no failure of the pipeline."""
        metrics.CANARY_FAILURES.labels(kind).inc()
        self._trouble, self._looked = reason, time.monotonic()
