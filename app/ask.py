"""The read endpoints' way to the store: who asks, what they may see, how much at once; what a refusal means.

A `Turn` is the right to ask for a while. It is bounded, for all together, a project and a key: a page full
of charts waits for its own turns instead of taking the store. Each statement has limits of its own and dies
alone. What is asked is the handlers' business.

Beside its limits a statement carries three words for whoever runs the store: `workload` and `quota_key` say
that it is a question and whose, and `os_thread_priority` that all else goes before it. The embedded store
acts on the first two; what a ClickHouse server can make of them is in docs/operate.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

import structlog
from starlette.requests import Request

from app.errors import ApiError, Kind
from app.grant import Grant, KeyType
from app.http import read_json_body
from app.rate_limit import RateLimits
from app.redis_client import UNREACHABLE
from app.retention import oldest_ms
from app.scope import Erased, Hiding, Scope, scope_of
from app.store import PASSING_CODES, Result, Store, StoreError, StoreRefused, StoreUnavailable, Value
from app.turns import Turns

if TYPE_CHECKING:
    from app.registry import Registry
    from app.settings import Settings

QUERY_KEY = "x-eventbunker-query-key"
WORKLOAD = "questions"
NICE = 15  # four threads on a processor that others want too have an eighth of it, not each a tenth
MAX_WAITING_PER_SLOT = 16
PLACES_PER_KEPT = 4  # one of so many is for who has none: a project, or in one a key
RUNNING = "queries are running"
FRESHNESS_SECONDS = 1.0
QUEUE_SECONDS = 10.0  # a question may wait so long in the store, before the time that it may take begins
# ClickHouse's codes for a query that exceeded a limit of its own, and what the client may do about it.
# Source: https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp
_OWN_LIMITS = {
    158: "rows",
    159: "time",
    160: "time",
    167: "conditions",
    168: "conditions",
    241: "memory",
    307: "bytes read",
    396: "size of the answer",
}
# Others were before it for as long as it may wait, or too many waited; a server has four words for that.
_BUSY = (202, 745, 778, 1020)
_EVICTED = (776, 777)  # the largest of those that were more than the memory for all questions holds
# Groups are formed a block at a time, and a value of any type costs a few steps for each block, so blocks are
# large; in bytes too they are bounded, which counts where values are long.
GROUPED = {"max_block_size": 131_072, "preferred_block_size_bytes": 16_000_000}
_log = structlog.get_logger(__name__)


class Freshness(Protocol):
    """Who knows how far the stream has been drained."""

    async def fresh_as_of(self) -> int:
        """Unix milliseconds up to which every event that reached the stream is in the store."""
        ...


class Turn:
    """The right to ask, of one request. `scope`: what its key may see. `fresh_as_of`: Unix milliseconds up to
    which every event that reached the stream is in the answers."""

    def __init__(self, asker: Asker, scope: Scope, fresh_as_of: int) -> None:
        self._asker = asker
        self.scope = scope
        self.fresh_as_of = fresh_as_of

    async def ask(
        self,
        sql: str,
        parameters: Mapping[str, Value],
        settings: Mapping[str, str | int | float] | None = None,
    ) -> Result:
        """Run a SELECT that was built with `scope`. Errors: ApiError."""
        return await self._asker.run(self.scope, sql, parameters, settings or {})

    async def read(
        self,
        sql: str,
        parameters: Mapping[str, Value],
        settings: Mapping[str, str | int | float] | None = None,
    ) -> bytes:
        """The same for rows that are taken apart later, where thousands at once would hold up others: each a
        line, a JSON array. Errors: ApiError."""
        return await self._asker.read(self.scope, sql, parameters, settings or {})


class Asker:
    """One for each edge process."""

    def __init__(
        self, registry: Registry, store: Store, freshness: Freshness, hiding: Hiding, settings: Settings
    ) -> None:
        self._registry = registry
        self._store = store
        self._freshness = freshness
        self._hiding = hiding
        self._limits = settings.limits
        self._retention_days = settings.store.retention_days
        at_once = self._limits.max_concurrent_queries
        of_project = self._limits.max_concurrent_queries_per_project
        # Waited for no longer than a query may take.
        self._turns = Turns(
            at_once,
            at_once * MAX_WAITING_PER_SLOT,
            self._limits.query_timeout,
            RUNNING,
            (of_project, self._limits.max_concurrent_queries_per_key),
            kept=(at_once // PLACES_PER_KEPT, of_project // PLACES_PER_KEPT),
        )
        self._rates = RateLimits("send {} requests a second; send it again later")
        self._proved_ms = 0

    async def grant(self, request: Request, *, again: bool = False) -> Grant:
        """The QUERY key's, counted against its `rate_limit` unless the same request asks `again`.

        Errors: ApiError 401, 429, 503.
        """
        grant = await self._registry.authorise(request.headers.get(QUERY_KEY), KeyType.QUERY)
        if not again:
            self.count(grant)
        return grant

    def count(self, grant: Grant) -> None:
        """Count a request of whoever holds `grant` against its `rate_limit`. Errors: ApiError 429."""
        self._rates.take(grant)

    async def body(self, request: Request) -> bytes:
        """The request's body. Errors: ApiError 408, 413, 415."""
        return await read_json_body(request, self._limits.max_request_bytes)

    @contextlib.asynccontextmanager
    async def turn(self, grant: Grant) -> AsyncIterator[Turn]:
        """Wait for a turn of whoever holds `grant`. Wrap it in `while_connected`. Errors: ApiError 503."""
        async with self._turns.turn(grant.project_id, grant.api_key_id):
            # Before the rows are read: an event stored meanwhile is more than was promised, never less.
            fresh_as_of, erased = await asyncio.gather(self._fresh_as_of(), self._hidden(grant.project_id))
            oldest = oldest_ms(self._retention_days, time.time_ns() // 1_000_000)
            yield Turn(self, scope_of(grant, erased, oldest_ms=oldest), fresh_as_of)

    async def _hidden(self, project_id: str) -> tuple[Erased, ...]:
        try:
            return await self._hiding.hidden(project_id)
        except StoreError:  # neither can Redis tell, and what was erased must not be shown
            raise unavailable() from None

    async def _fresh_as_of(self) -> int:
        """What the stream says, or said last: a moment once proved stays true, so stored events can be
        queried while Redis is away. 0 where it never said anything."""
        try:
            async with asyncio.timeout(FRESHNESS_SECONDS):
                self._proved_ms = max(self._proved_ms, await self._freshness.fresh_as_of())
        except UNREACHABLE as error:  # the rows do not depend on it
            _log.warning("freshness_unknown", error=type(error).__name__)
        return self._proved_ms

    async def run(
        self, scope: Scope, sql: str, parameters: Mapping[str, Value], own: Mapping[str, str | int | float]
    ) -> Result:
        """Run one statement within the limits. Errors: ApiError."""
        with _told():
            return await self._store.ask(
                sql,
                parameters,
                settings=self._settings(scope, own),
                timeout_seconds=self._limits.query_timeout,
                queue_seconds=QUEUE_SECONDS,
            )

    async def read(
        self, scope: Scope, sql: str, parameters: Mapping[str, Value], own: Mapping[str, str | int | float]
    ) -> bytes:
        """The same, the answer as the store writes it: a row a line, each a JSON array. Errors: ApiError."""
        with _told():
            return await self._store.read(
                sql,
                parameters,
                format_="JSONCompactEachRow",
                settings={"output_format_json_quote_64bit_integers": 0, **self._settings(scope, own)},
                timeout_seconds=self._limits.query_timeout,
                queue_seconds=QUEUE_SECONDS,
            )

    def _settings(self, scope: Scope, own: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
        return {
            **own,
            "readonly": 2,
            "max_memory_usage": self._limits.query_max_memory_bytes,
            "max_rows_to_read": self._limits.query_max_rows_read,
            "max_bytes_to_read": self._limits.query_max_bytes_read,
            "read_overflow_mode": "throw",
            "max_result_bytes": self._limits.query_max_result_bytes,
            "result_overflow_mode": "throw",
            "timeout_overflow_mode": "throw",
            "cancel_http_readonly_queries_on_client_close": 1,  # a server's; the embedded store always does
            "workload": WORKLOAD,
            "quota_key": scope.project_id,
            "os_thread_priority": NICE,
            "output_format_json_escape_forward_slashes": 0,
            "precise_float_parsing": 1,  # older servers read the last digits of a float by guess
            # Weeks, months and years that begin before 1970 would be clamped to it.
            "enable_extended_results_for_datetime_functions": 1,
        }


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What the store's errors mean to whoever asked."""
    try:
        yield
    except StoreUnavailable:
        raise unavailable() from None
    except StoreRefused as error:
        # "(total)": the store as a whole is short of memory, which is no fault of this query.
        if error.code in _OWN_LIMITS and "(total)" not in error.message:
            limit = _OWN_LIMITS[error.code]
            raise ApiError(
                Kind.QUERY_TOO_EXPENSIVE,
                f"The query exceeded its limit of {limit}; narrow time_period or filters.",
            ) from None
        if error.code in _BUSY:
            raise busy() from None
        if error.code in _EVICTED:
            raise ApiError(
                Kind.UNAVAILABLE,
                "This query and others together took too much of the store's memory; try again, or narrow"
                " time_period or filters.",
                retry_after_seconds=1,
            ) from None
        if error.code in PASSING_CODES:
            raise unavailable() from None
        raise


def busy() -> ApiError:
    """The store has others to answer."""
    return ApiError(Kind.UNAVAILABLE, f"Too many {RUNNING}; try again.", retry_after_seconds=1)


def unavailable() -> ApiError:
    """The store says nothing, or not now."""
    return ApiError(Kind.UNAVAILABLE, "The event store does not answer; try again.", retry_after_seconds=1)
