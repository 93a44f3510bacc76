"""Per-key rate limits (429), without a Redis call: one token bucket for each limited key, in memory.

A limit holds for one edge process: behind a load balancer with three of them a key may get three times
its rate. That is the price of asking nobody; the limit is there to stop a page that runs away.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict

import msgspec

from app.errors import ApiError, Kind
from app.grant import Grant

MAX_BUCKETS = 10_000  # the least recently used is forgotten, which fills it again


class _Bucket(msgspec.Struct):
    """`tokens` at monotonic time `at`; it holds at most one second's worth."""

    tokens: float
    at: float


class RateLimits:
    """The buckets of one process. `may`: what a key may do so often (`{}`), and what to do beyond."""

    def __init__(self, may: str = "send {} events a second; nothing was kept. Send it again later") -> None:
        self._may = may
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, grant: Grant, events: int = 1) -> None:
        """Count `events` against the key's limit, if it has one. Errors: ApiError 429; nothing was kept.

        More events than a second's worth are let through by a full bucket, which then is in debt: otherwise
        no batch above the rate would ever pass. Until the debt is paid not even 0 events do.
        """
        rate = grant.rate_limit
        if rate is None:
            return
        now = time.monotonic()
        bucket = self._buckets.get(grant.api_key_id)
        if bucket is None:
            bucket = self._buckets[grant.api_key_id] = _Bucket(float(rate), now)
            if len(self._buckets) > MAX_BUCKETS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(grant.api_key_id)
        bucket.tokens = min(float(rate), bucket.tokens + (now - bucket.at) * rate)
        bucket.at = now
        wanted = min(events, rate)
        if bucket.tokens < wanted:
            wait = math.ceil((wanted - bucket.tokens) / rate)
            raise ApiError(
                Kind.RATE_LIMITED,
                f"This key may {self._may.format(rate)}.",
                retry_after_seconds=max(1, wait),
            )
        bucket.tokens -= events
