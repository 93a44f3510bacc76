"""One call at a time for each question: whoever asks the same meanwhile gets the same answer. A leaf.

Without it, every request that finds a memory empty (at a start, after a change) asks Redis for itself:
hundreds of equal questions at once, on as many connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """Calls in flight by question; at most `max_concurrent` at once, others wait within their deadline."""

    def __init__(self, max_concurrent: int) -> None:
        self._flights: dict[K, asyncio.Task[V]] = {}
        self._slots = asyncio.Semaphore(max_concurrent)

    async def do(self, question: K, seconds: float, ask: Callable[[], Awaitable[V]]) -> V:
        """The answer of `ask`, or of the call that is already under way.

        Errors: those of `ask`, to all who wait; TimeoutError `seconds` after the call began to wait.
        A caller that is cancelled leaves the call to the others.
        """
        flight = self._flights.get(question)
        if flight is None:
            flight = asyncio.create_task(self._fly(seconds, ask))
            self._flights[question] = flight
            flight.add_done_callback(lambda done: self._land(question, done))
        return await asyncio.shield(flight)

    async def _fly(self, seconds: float, ask: Callable[[], Awaitable[V]]) -> V:
        async with asyncio.timeout(seconds), self._slots:
            return await ask()

    def _land(self, question: K, done: asyncio.Task[V]) -> None:
        del self._flights[question]
        if not done.cancelled():
            done.exception()  # looked at, or asyncio warns of an error that every waiter has left
