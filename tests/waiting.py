"""Waiting on a condition with a deadline: the only way a test of ours waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.02  # short enough not to blur what is measured, long enough to leave the core to the product
LONGEST_POLL_SECONDS = 0.1


def _pause(began: float) -> float:
    """A tenth of what was waited so far: each look at a condition is work for the product, too."""
    return min(max(POLL_SECONDS, (time.monotonic() - began) / 10), LONGEST_POLL_SECONDS)


def until(condition: Callable[[], T], deadline_seconds: float, what: str = "the condition") -> T:
    """Call `condition` until it returns something true, and return that.

    Errors: AssertionError after `deadline_seconds`, naming `what` and the last value seen.
    """
    began = time.monotonic()
    end = began + deadline_seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not hold within {deadline_seconds} s; last value: {value!r}")
        time.sleep(_pause(began))


async def async_until(
    condition: Callable[[], Awaitable[T | None]], deadline_seconds: float, what: str = "the condition"
) -> T:
    """`until` for a coroutine function; the loop goes on meanwhile."""
    began = time.monotonic()
    end = began + deadline_seconds
    while True:
        value = await condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not hold within {deadline_seconds} s; last value: {value!r}")
        await asyncio.sleep(_pause(began))
